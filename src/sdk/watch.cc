// Events of a site, over a connection of their own.
#include "sdk/site.h"

struct tg_watch {
  std::timed_mutex mutex;
  tidegate::onshore::api::ApiClient client;
};

namespace tidegate::sdk {
namespace {

using onshore::EventCode;
using onshore::api::EventMessage;

static_assert(TG_EVENT_DECISION_HEARD == static_cast<int>(EventCode::kDecisionHeard));
static_assert(TG_EVENT_JOB_ENDED == static_cast<int>(EventCode::kJobEnded));
static_assert(TG_EVENT_TRAINING_GOES_ON == static_cast<int>(EventCode::kReleased));
static_assert(TG_EVENT_OUTSIDE_ENDED == static_cast<int>(EventCode::kOutsideEnded));

tg_event EventOf(const EventMessage& from) {
  tg_event out{};
  out.struct_size = sizeof(out);
  out.code = from.code;
  out.source = from.source;
  out.sequence = from.sequence;
  out.lost = from.lost;
  out.unix_millis = from.unix_millis;
  std::copy(from.arguments.begin(), from.arguments.end(), out.arguments);
  return out;
}

Result<tg_event> NextEvent(tg_watch& watch, const Call& call) {
  watch.client.Limit(call.left(), call.cancel());
  for (;;) {
    TG_ASSIGN_OR_RETURN(const auto told, watch.client.Next(call.left()));
    if (const auto* event = std::get_if<EventMessage>(&told)) return EventOf(*event);
  }
}

}  // namespace
}  // namespace tidegate::sdk

using namespace tidegate::sdk;  // NOLINT: what follows is C
using tidegate::OkStatus;
using tidegate::Status;

int32_t tg_watch_open(tg_site* site, uint64_t epoch, uint64_t after, const tg_call* given,
                      tg_watch** out, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(site), NotNull(out);
    const Call call(given);
    TG_ASSIGN_OR_RETURN(ApiClient client, ConnectAgain(*site, call));
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto from, client.Watch({epoch, after}));
    *out = new tg_watch{{}, std::move(client)};
    return OkStatus();
  });
}

void tg_watch_close(tg_watch* watch) { delete watch; }

int32_t tg_watch_next(tg_watch* watch, const tg_call* given, tg_event* out, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(watch);
    TG_RETURN_IF_ERROR(CheckStruct(out, sizeof(*out), "tg_event"));
    const Call call(given);
    const Locked lock(watch->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    TG_ASSIGN_OR_RETURN(const tg_event event, NextEvent(*watch, call));
    return Fill(event, out, "tg_event");
  });
}

int32_t tg_watch_run(tg_watch* watch, const tg_call* given, tg_event_fn each, void* user,
                     tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(watch), NotNull(each);
    const Call call(given);
    const Locked lock(watch->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    for (;;) {
      TG_ASSIGN_OR_RETURN(const tg_event event, NextEvent(*watch, call));
      if (each(&event, user) != 0) return OkStatus();
    }
  });
}

size_t tg_event_text(const tg_event* event, char* buffer, size_t size) {
  try {
    std::array<int64_t, 4> arguments;
    std::copy_n(event->arguments, arguments.size(), arguments.begin());
    const std::string text = tidegate::onshore::EventText(event->code, arguments);
    if (size > 0) {
      const size_t fits = std::min(text.size(), size - 1);
      std::memcpy(buffer, text.data(), fits);
      buffer[fits] = '\0';
    }
    return text.size();
  } catch (const std::exception&) {
    return 0;
  }
}
