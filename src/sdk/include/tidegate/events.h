// What happens at a site, as it happens. A Watch has a connection of its own and may be used by any
// thread, one call at a time.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tidegate/status.h"

namespace tg {

// Codes: TG_EVENT_... (tidegate.h says what the arguments are).
struct Event : tg_event {
  explicit Event(const tg_event& from) : tg_event(from) {}
  // "update_released round=3 bytes=4912345 ledger_index=17"
  std::string Text() const {
    char text[512];
    tg_event_text(this, text, sizeof(text));
    return text;
  }
};

class Watch {
 public:
  explicit Watch(tg_watch* handle) : handle_(handle, &tg_watch_close) {}

  Result<Event> Next(const Call& call = Call()) const {
    TG_STRUCT(tg_event, event);
    const Status status = internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_watch_next(handle_.get(), c, &event, e);
    });
    if (!status.ok()) return status;
    return Event(event);
  }
  // Until `each` returns false, or with an error. `each` must not throw.
  Status Run(const std::function<bool(const Event&)>& each, const Call& call) const {
    const auto hear = [](const tg_event* event, void* user) -> int32_t {
      return (*static_cast<const std::function<bool(const Event&)>*>(user))(Event(*event)) ? 0 : 1;
    };
    return internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_watch_run(handle_.get(), c, hear,
                          const_cast<std::function<bool(const Event&)>*>(&each), e);
    });
  }

 private:
  std::shared_ptr<tg_watch> handle_;
};

}  // namespace tg
