#include "onshore/start/stop.h"

#include <cerrno>
#include <csignal>
#include <ctime>
#include <utility>

#include "onshore/start/start.h"

namespace tidegate::onshore {
namespace {

volatile std::sig_atomic_t g_signal_came = 0;
bool g_told = false;  // by the supervisor
bool g_trainer_gone = false;

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
  }
  return g_told || StopSignalCame();
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
