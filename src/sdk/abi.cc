#include "sdk/abi.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/program.h"

namespace tidegate::sdk {
namespace {

constexpr int64_t kDefaultMillis = 10'000;
// The thread sanitizer of g++ 12 does not see a lock that was waited for by the steady clock.
#ifdef __SANITIZE_THREAD__
using LockClock = std::chrono::system_clock;
#else
using LockClock = std::chrono::steady_clock;
#endif
constexpr int64_t kNoDeadline = int64_t{1000} * 3600 * 24 * 365;

}  // namespace

int32_t Give(const Status& status, tg_error* error) {
  const auto code = static_cast<int32_t>(status.code());
  constexpr size_t kHead = offsetof(tg_error, message);
  if (error == nullptr || error->struct_size <= kHead) return code;
  error->code = code;
  const size_t room = std::min<size_t>(error->struct_size, sizeof(tg_error)) - kHead - 1;
  const size_t size = std::min(status.message().size(), room);
  std::memcpy(error->message, status.message().data(), size);
  error->message[size] = '\0';
  return code;
}

Call::Call(const tg_call* call) {
  int64_t millis = kDefaultMillis;
  if (call != nullptr && call->struct_size >= sizeof(tg_call)) {
    if (call->deadline_millis > 0) millis = call->deadline_millis;
    if (call->deadline_millis < 0) millis = kNoDeadline;
    if (call->cancel != nullptr) cancel_ = call->cancel->event.get();
  }
  until_ = SystemClock().MonotonicMillis() + millis;
}

Locked::Locked(std::timed_mutex& mutex, const Call& call)
    : lock_(mutex, LockClock::now() + std::chrono::milliseconds(call.left())) {}

Status Locked::status() const {
  if (lock_.owns_lock()) return OkStatus();
  return DeadlineExceeded("another thread's call of this handle took the time");
}

Result<std::string> Given(const char* text, const char* name) {
  if (text == nullptr || *text == '\0') return InvalidArgument("{} is missing", name);
  return std::string(text);
}

Status WaitFor(int fd, short events, const Call& call) {
  for (;;) {
    pollfd fds[] = {{fd, events, 0}, {call.cancel(), POLLIN, 0}};
    const int ready = ::poll(fds, 2, static_cast<int>(std::min<int64_t>(call.left(), 60'000)));
    if (ready < 0 && errno != EINTR) return ErrnoStatus("wait for", "the other side", errno);
    if (ready > 0 && fds[1].revents != 0) return Cancelled("the call was cancelled");
    if (ready > 0) return OkStatus();
    if (call.left() == 0) return DeadlineExceeded("nothing came in time");
  }
}

}  // namespace tidegate::sdk

using tidegate::sdk::Guarded;

uint32_t tg_abi_version(void) { return TG_ABI_VERSION; }
const char* tg_version(void) { return tidegate::Version(); }

const char* tg_code_name(int32_t code) {
  if (code < 0 || code > TG_INTERNAL) return "UNKNOWN";
  return tidegate::CodeName(static_cast<tidegate::Code>(code)).data();
}

tg_cancel* tg_cancel_new(void) {
  tidegate::Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return nullptr;
  auto* cancel = new (std::nothrow) tg_cancel;
  if (cancel != nullptr) cancel->event = std::move(event);
  return cancel;
}

void tg_cancel_now(tg_cancel* cancel) {
  if (cancel == nullptr) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(cancel->event.get(), &one, sizeof(one));
}

void tg_cancel_free(tg_cancel* cancel) { delete cancel; }

const char* tg_text_data(const tg_text* text) { return text == nullptr ? "" : text->text.c_str(); }
size_t tg_text_size(const tg_text* text) { return text == nullptr ? 0 : text->text.size(); }
void tg_text_free(tg_text* text) { delete text; }

int32_t tg_run_tidegate(const char* const* words, size_t count, const tg_call* call, tg_text** out,
                        tg_error* error) {
  return Guarded(error, [&]() -> tidegate::Status {
    std::vector<std::string> all;
    for (size_t i = 0; i < count; ++i) {
      TG_ASSIGN_OR_RETURN(std::string word, tidegate::sdk::Given(words[i], "a word"));
      all.push_back(std::move(word));
    }
    TG_ASSIGN_OR_RETURN(std::string answer,
                        tidegate::sdk::RunTidegate(std::move(all), tidegate::sdk::Call(call)));
    if (out != nullptr) *out = new tg_text{std::move(answer)};
    return tidegate::OkStatus();
  });
}
