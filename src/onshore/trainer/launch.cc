#include "onshore/trainer/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string>

#include "base/file.h"
#include "base/log.h"

namespace tidegate::trainer {
namespace {

constexpr std::array kForwarded = {SIGINT, SIGTERM, SIGHUP};

volatile pid_t g_child = 0;

// A key at the terminal has reached the child as well, which is of our group: once is enough.
void Forward(int signal, siginfo_t* info, void*) {
  if (info->si_code == SI_KERNEL) return;
  const int saved = errno;
  if (g_child > 0) ::kill(g_child, signal);
  errno = saved;
}

struct Pipe {
  Fd read, write;
};

Result<Pipe> MakePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

// Copies what there is; false at the end of the pipe. Whatever happens to our output, the training
// goes on.
bool Copy(int from, int to, Status* written) {
  char buffer[4096];
  const ssize_t n = ::read(from, buffer, sizeof(buffer));
  if (n < 0) return errno == EINTR;
  if (n == 0) return false;
  const Status status = WriteAll(to, AsBytes({buffer, static_cast<size_t>(n)}), "the output");
  if (!status.ok()) *written = status;
  return true;
}

// What is on its way from our standard input to the child: one piece at a time, and none is waited
// for, so that the child's output goes on whatever it reads.
class InputCopy {
 public:
  // `to` is the pipe's end for writing; none: nothing is copied.
  explicit InputCopy(Fd to) : to_(std::move(to)) {
    if (to_.valid()) (void)::fcntl(to_.get(), F_SETFL, O_NONBLOCK);
  }
  pollfd Waits() const {
    if (!to_.valid()) return {-1, 0, 0};
    if (at_ < piece_.size()) return {to_.get(), POLLOUT, 0};
    return {STDIN_FILENO, POLLIN, 0};
  }
  void Go() {
    if (at_ < piece_.size()) return Write();
    piece_.resize(4096);
    at_ = 0;
    const ssize_t n = ::read(STDIN_FILENO, piece_.data(), piece_.size());
    piece_.resize(n > 0 ? static_cast<size_t>(n) : 0);
    // The end, or an input that cannot be read: the child sees the end.
    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) to_.reset();
  }

 private:
  void Write() {
    const ssize_t n = ::write(to_.get(), piece_.data() + at_, piece_.size() - at_);
    if (n > 0) at_ += static_cast<size_t>(n);
    if (n < 0 && errno != EINTR && errno != EAGAIN) to_.reset();  // the child reads no more
  }

  Fd to_;
  std::string piece_;
  size_t at_ = 0;
};

// Whether all that the child put on standard output got out, or nobody wanted it: a reader that
// went away (a closed terminal, `| head`) is no loss, a full or broken disk is.
bool CopyUntilClosed(const Fd& out, const Fd& err, InputCopy input) {
  std::array<pollfd, 3> polled = {{{out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}, {}}};
  std::array<Status, 2> written;
  while (polled[0].fd >= 0 || polled[1].fd >= 0) {
    polled[2] = input.Waits();
    if (::poll(polled.data(), polled.size(), -1) < 0) {
      if (errno == EINTR) continue;
      break;
    }
    for (size_t i = 0; i < written.size(); ++i) {
      if (polled[i].fd < 0 || polled[i].revents == 0) continue;
      if (!Copy(polled[i].fd, static_cast<int>(i) + 1, &written[i])) polled[i].fd = -1;
    }
    if (polled[2].fd >= 0 && polled[2].revents != 0) input.Go();
  }
  return written[0].code() != Code::kResourceExhausted && written[0].code() != Code::kDataLoss;
}

int ExitCodeOf(int wait_status) {
  if (WIFEXITED(wait_status)) return WEXITSTATUS(wait_status);
  const int signal = WTERMSIG(wait_status);
  if (signal == SIGSYS) {
    LogError("trainer_hit_wall signal=SIGSYS: a forbidden system call was tried; the run ended");
    return static_cast<int>(Code::kInternal);
  }
  if (signal == SIGKILL) {
    LogError(
        "trainer_killed signal=SIGKILL: out of memory? try --dtype bf16, a smaller --max_length"
        " or --per_device_train_batch_size; --resume goes on from the last saved step");
    return static_cast<int>(Code::kResourceExhausted);
  }
  // A signal that came before the child could note it.
  if (std::find(kForwarded.begin(), kForwarded.end(), signal) != kForwarded.end()) {
    LogWarning("trainer_stopped signal={} before it had begun", signal);
    return static_cast<int>(Code::kCancelled);
  }
  LogError("trainer_died signal={}; --resume goes on from the last saved step", signal);
  return static_cast<int>(Code::kInternal);
}

// `input`: its 0, or none for /dev/null.
[[noreturn]] void BeChild(const Fd& input, const Pipe& out, const Pipe& err, pid_t parent,
                          const std::function<int(pid_t)>& body) {
  for (const int signal : kForwarded) std::signal(signal, SIG_DFL);
  std::signal(SIGPIPE, SIG_DFL);
  const Fd null(input.valid() ? -1 : ::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int zero = input.valid() ? input.get() : null.get();
  if (zero < 0 || ::dup2(zero, 0) < 0 || ::dup2(out.write.get(), 1) < 0 ||
      ::dup2(err.write.get(), 2) < 0) {
    std::_Exit(static_cast<int>(Code::kInternal));
  }
  // Not exit(): what the parent registered for its own end is not ours to run.
  std::_Exit(body(parent));
}

}  // namespace

Result<int> RunInChild(const std::function<int(pid_t parent)>& body, bool reads_input) {
  Pipe in;
  if (reads_input) {
    TG_ASSIGN_OR_RETURN(in, MakePipe());
  }
  TG_ASSIGN_OR_RETURN(Pipe out, MakePipe());
  TG_ASSIGN_OR_RETURN(Pipe err, MakePipe());
  const pid_t parent = ::getpid();
  // Blocked until the child's number is known, so that no signal is lost in between.
  sigset_t block, old;
  sigemptyset(&block);
  for (const int signal : kForwarded) sigaddset(&block, signal);
  ::sigprocmask(SIG_BLOCK, &block, &old);
  const pid_t child = ::fork();
  if (child < 0) {
    const int error = errno;
    ::sigprocmask(SIG_SETMASK, &old, nullptr);
    return Unexpected(ErrnoStatus("start", "the walled trainer", error));
  }
  if (child == 0) {
    ::sigprocmask(SIG_SETMASK, &old, nullptr);
    in.write.reset();
    BeChild(in.read, out, err, parent, body);
  }
  g_child = child;
  struct sigaction action {};
  action.sa_sigaction = Forward;
  action.sa_flags = SA_SIGINFO;
  for (const int signal : kForwarded) ::sigaction(signal, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  ::sigprocmask(SIG_SETMASK, &old, nullptr);
  in.read.reset();
  out.write.reset();
  err.write.reset();
  const bool whole = CopyUntilClosed(out.read, err.read, InputCopy(std::move(in.write)));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return Unexpected(ErrnoStatus("wait for", "the walled trainer", errno));
  }
  g_child = 0;
  const int code = ExitCodeOf(status);
  if (code == 0 && !whole) {
    return Unavailable("cannot write to standard output; check where it is redirected to");
  }
  return code;
}

}  // namespace tidegate::trainer
