#include "onshore/start/stop.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <deque>
#include <utility>

#include "onshore/start/start.h"

namespace tidegate::onshore {
namespace {

volatile std::sig_atomic_t g_signal_came = 0;
bool g_told = false;  // by the supervisor
bool g_trainer_gone = false;
std::string g_reason;
std::deque<PeoplesWord> g_decisions;
constexpr size_t kMostReasonBytes = 256;

void TakePeoplesWord(const ControlMessage& message) {
  if (message.type == ControlType::kReason && message.code * 32 < kMostReasonBytes) {
    char part[sizeof(message.arguments)];
    std::memcpy(part, message.arguments.data(), sizeof(part));
    if (message.code == 0) g_reason.clear();
    g_reason.append(part, ::strnlen(part, sizeof(part)));
  }
  if (message.type != ControlType::kDecision) return;
  PeoplesWord word;
  word.uid = static_cast<uint32_t>(message.arguments[0]);
  word.decision = message.code;
  std::memcpy(word.plaintext.data(), message.arguments.data() + 1, word.plaintext.size());
  word.reason = std::exchange(g_reason, {});
  g_decisions.push_back(std::move(word));
}

void Note(int) { g_signal_came = 1; }

sigset_t StopSignals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&set, signal);
  return set;
}

}  // namespace

void CatchStopSignals() {
  const sigset_t stops = StopSignals();
  ::pthread_sigmask(SIG_BLOCK, &stops, nullptr);
  struct sigaction action {};
  action.sa_handler = Note;
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaction(signal, &action, nullptr);
}

bool StopSignalCame() {
  // What waits is delivered before the first call returns.
  const sigset_t stops = StopSignals();
  sigset_t before;
  ::pthread_sigmask(SIG_UNBLOCK, &stops, &before);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return g_signal_came != 0;
}

Result<bool> StopAsked() {
  while (!g_told) {
    TG_ASSIGN_OR_RETURN(const auto message, ReceiveControl());
    if (!message) break;
    g_told = message->type == ControlType::kStop;
    if (message->type == ControlType::kTrainerGone) g_trainer_gone = true;
    TakePeoplesWord(*message);
  }
  return g_told || StopSignalCame();
}

std::optional<PeoplesWord> TakeDecision() {
  if (g_decisions.empty()) return std::nullopt;
  PeoplesWord word = std::move(g_decisions.front());
  g_decisions.pop_front();
  return word;
}

bool TakeTrainerGone() { return std::exchange(g_trainer_gone, false); }

Status WaitFor(std::span<pollfd> fds, int timeout_millis) {
  sigset_t open;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &open);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigdelset(&open, signal);
  const timespec timeout{timeout_millis / 1000, (timeout_millis % 1000) * 1'000'000L};
  // The three are let in by the call itself: there is no moment in which one is delivered and the
  // wait begins all the same.
  const int n = ::ppoll(fds.data(), fds.size(), timeout_millis < 0 ? nullptr : &timeout, &open);
  if (n >= 0) return OkStatus();
  for (pollfd& fd : fds) fd.revents = 0;
  return errno == EINTR ? OkStatus() : ErrnoStatus("poll", "the pairs", errno);
}

}  // namespace tidegate::onshore
