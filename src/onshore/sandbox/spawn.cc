#include "onshore/sandbox/spawn.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace tidegate::onshore {
namespace {

constexpr char kParentVariable[] = "TIDEGATE_SUPERVISOR_PID";

// Everything the child needs, made before fork(): after it only async-signal-safe calls are left.
struct ChildPlan {
  const char* program;
  char* const* arguments;
  char* const* environment;
  int fds[kMaxSpawnFds];
  int fd_count;
  int standard[3];
  int null_fd;
  int report_fd;
  pid_t parent;
};

[[noreturn]] void Fail(int report_fd, int error) {
  (void)!::write(report_fd, &error, sizeof(error));
  ::_exit(127);
}

// Copies above every target first, so that no target overwrites a source that is still needed.
void PlaceFds(ChildPlan& plan) {
  const int floor = 3 + static_cast<int>(kMaxSpawnFds);
  plan.report_fd = ::fcntl(plan.report_fd, F_DUPFD_CLOEXEC, floor);
  if (plan.report_fd < 0) ::_exit(127);
  for (int i = 0; i < plan.fd_count; ++i) {
    plan.fds[i] = ::fcntl(plan.fds[i], F_DUPFD_CLOEXEC, floor);
    if (plan.fds[i] < 0) Fail(plan.report_fd, errno);
  }
  const int null_fd = ::fcntl(plan.null_fd, F_DUPFD_CLOEXEC, floor);
  if (null_fd < 0) Fail(plan.report_fd, errno);
  for (int& fd : plan.standard) {
    fd = fd < 0 ? null_fd : ::fcntl(fd, F_DUPFD_CLOEXEC, floor);
    if (fd < 0) Fail(plan.report_fd, errno);
  }
  for (int i = 0; i < 3; ++i) {
    if (::dup2(plan.standard[i], i) < 0) Fail(plan.report_fd, errno);
  }
  for (int i = 0; i < plan.fd_count; ++i) {
    if (::dup2(plan.fds[i], 3 + i) < 0) Fail(plan.report_fd, errno);
  }
  // Whatever else the supervisor has open, and forgot to mark.
  if (::close_range(3U + static_cast<unsigned>(plan.fd_count), ~0U, CLOSE_RANGE_CLOEXEC) != 0) {
    Fail(plan.report_fd, errno);
  }
}

// The kernel's own struct sigaction of x86-64: the call below takes no other.
struct KernelSigaction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  unsigned long mask;
};

// By the kernel's call: libc's refuses the two signals it keeps for threads, and whoever started
// the supervisor may have left those ignored too.
void DefaultSignals() {
  const KernelSigaction action{SIG_DFL, 0, nullptr, 0};
  for (int number = 1; number <= 64; ++number) {
    // SIGKILL and SIGSTOP refuse, and need nothing.
    (void)::syscall(SYS_rt_sigaction, number, &action, nullptr, sizeof(action.mask));
  }
}

[[noreturn]] void RunChild(ChildPlan& plan) {
  PlaceFds(plan);
  DefaultSignals();
  // Of its own session: Ctrl-C in the supervisor's terminal is for the supervisor, which then tells
  // its children to end in good order, and no child can push input into that terminal.
  if (::setsid() < 0) Fail(plan.report_fd, errno);
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) Fail(plan.report_fd, errno);
  // The parent may have died before that line.
  if (::getppid() != plan.parent) ::_exit(127);
  sigset_t none;
  ::sigemptyset(&none);
  if (::sigprocmask(SIG_SETMASK, &none, nullptr) != 0) Fail(plan.report_fd, errno);
  ::execve(plan.program, plan.arguments, plan.environment);
  Fail(plan.report_fd, errno);
}

std::vector<char*> Pointers(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

Status FillPlan(const SpawnSpec& spec, ChildPlan& plan) {
  if (spec.fds.size() > kMaxSpawnFds) {
    return InvalidArgument("{} descriptors for {}; at most {} cross", spec.fds.size(),
                           spec.program.string(), kMaxSpawnFds);
  }
  for (const std::string& entry : spec.environment) {
    if (entry.starts_with(kParentVariable)) {
      return InvalidArgument("{} is set by Spawn; leave it out", kParentVariable);
    }
  }
  plan.fd_count = static_cast<int>(spec.fds.size());
  std::copy(spec.fds.begin(), spec.fds.end(), plan.fds);
  plan.standard[0] = spec.input_fd;
  plan.standard[1] = spec.output_fd;
  plan.standard[2] = spec.log_fd;
  return OkStatus();
}

// All signals blocked from before fork() until the child has its own dispositions: a handler of the
// supervisor must not run in the child.
pid_t ForkBlocked(ChildPlan& plan) {
  sigset_t all, before;
  ::sigfillset(&all);
  if (::pthread_sigmask(SIG_SETMASK, &all, &before) != 0) return -1;
  const pid_t pid = ::fork();
  if (pid == 0) RunChild(plan);
  const int error = errno;
  (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return pid;
}

}  // namespace

Result<Channel> MakeChannel() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return Unexpected(ErrnoStatus("make", "a channel", errno));
  }
  return Channel{Fd(ends[0]), Fd(ends[1])};
}

Result<Child> Spawn(const SpawnSpec& spec) {
  ChildPlan plan{};
  TG_RETURN_IF_ERROR(FillPlan(spec, plan));
  const std::string program = spec.program.string();
  std::vector<std::string> words = {program};
  words.insert(words.end(), spec.arguments.begin(), spec.arguments.end());
  std::vector<std::string> settings = spec.environment;
  settings.push_back(fmt::format("{}={}", kParentVariable, ::getpid()));
  const std::vector<char*> arguments = Pointers(words);
  const std::vector<char*> environment = Pointers(settings);
  const Fd null_fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null_fd.valid()) return Unexpected(ErrnoStatus("open", "/dev/null", errno));
  int report[2];
  if (::pipe2(report, O_CLOEXEC) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  const Fd report_read(report[0]);
  Fd report_write(report[1]);
  plan.program = program.c_str();
  plan.arguments = arguments.data();
  plan.environment = environment.data();
  plan.null_fd = null_fd.get();
  plan.report_fd = report_write.get();
  plan.parent = ::getpid();

  Child child;
  child.pid = ForkBlocked(plan);
  if (child.pid < 0) return Unexpected(ErrnoStatus("fork for", program, errno));
  // No race: the number is ours until we reap it.
  child.pidfd = Fd(static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0)));
  const int pidfd_error = errno;
  report_write.reset();
  int error = 0;
  ssize_t got = 0;
  do {
    got = ::read(report_read.get(), &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  if (got == 0 && child.pidfd.valid()) return child;
  (void)::kill(child.pid, SIGKILL);
  (void)::waitpid(child.pid, nullptr, 0);
  if (got == 0) return Unexpected(ErrnoStatus("open a pidfd for", program, pidfd_error));
  return Unexpected(ErrnoStatus("execute", program, error));
}

Result<pid_t> ExpectedParent() {
  const char* text = std::getenv(kParentVariable);
  pid_t pid = 0;
  if (text != nullptr) {
    const char* end = text + std::strlen(text);
    if (std::from_chars(text, end, pid).ptr == end && pid > 0) return pid;
  }
  return FailedPrecondition(
      "{} is not set: this program is started by tidegate-onshore, not by hand", kParentVariable);
}

std::string_view EndName(End end) {
  switch (end) {
    case End::kClean:
      return "clean";
    case End::kCrash:
      return "crash";
    case End::kKilled:
      return "killed";
    case End::kWallHit:
      return "wall hit";
  }
  return "unknown";
}

Result<std::optional<ChildEnd>> Reap(const Child& child, bool wait) {
  siginfo_t info{};
  int failed = 0;
  do {
    failed = ::waitid(P_PIDFD, static_cast<id_t>(child.pidfd.get()), &info,
                      WEXITED | (wait ? 0 : WNOHANG));
  } while (failed != 0 && errno == EINTR);
  if (failed != 0) {
    return Unexpected(ErrnoStatus("wait for", fmt::format("process {}", child.pid), errno));
  }
  if (info.si_pid == 0) return std::optional<ChildEnd>();
  ChildEnd end;
  if (info.si_code == CLD_EXITED) {
    end.exit_status = info.si_status;
    end.end = info.si_status == 0 ? End::kClean : End::kCrash;
    return std::optional<ChildEnd>(end);
  }
  end.signal = info.si_status;
  end.end = end.signal == SIGSYS                             ? End::kWallHit
            : end.signal == SIGKILL || end.signal == SIGTERM ? End::kKilled
                                                             : End::kCrash;
  return std::optional<ChildEnd>(end);
}

Status Kill(const Child& child) {
  if (::syscall(SYS_pidfd_send_signal, child.pidfd.get(), SIGKILL, nullptr, 0) != 0 &&
      errno != ESRCH) {
    return ErrnoStatus("kill", fmt::format("process {}", child.pid), errno);
  }
  return OkStatus();
}

}  // namespace tidegate::onshore
