// walled_helper role=ROLE [name=value ...]: a process of a site in small. It runs the control,
// walls itself, tries everything, does its role's work, locks down, tries one more thing, and tells
// the test about each step over descriptor 3:
//   "error MESSAGE"            RaiseWalls failed
//   "tidegate isolation ..."   the statement
//   "NAME ok" / "NAME bad ..." a step
// It ends by _exit: the leak checker of a sanitizer would need calls that are refused.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/file.h"
#include "onshore/sandbox/self_test.h"
#include "onshore/sandbox/spawn.h"
#include "onshore/sandbox/statement.h"
#include "tests/onshore/sandbox/helper_work.h"
#include "tests/onshore/sandbox/small_driver.h"

namespace tidegate::onshore {
namespace {

[[noreturn]] void Give(std::string_view text) {
  Say(text);
  ::_exit(3);
}

void Tell(std::string_view name, const Status& status) {
  Say(fmt::format("{} {}", name, status.ok() ? "ok" : "bad " + status.ToString()));
}

// An ordinary user from here on. After exec, so that no path above the program must be open to it.
void BecomeNobody() {
  if (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
      ::setresuid(kNobody, kNobody, kNobody) != 0 || ::prctl(PR_SET_DUMPABLE, 1) != 0) {
    Give("error cannot become another user");
  }
}

void WriteOrGive(const char* path, const std::string& text) {
  const Fd fd(::open(path, O_WRONLY | O_CLOEXEC));
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    Give(fmt::format("skip {} errno {}", path, errno));
  }
}

// A machine without user namespaces: one of its own, in which no further one may be made.
void ForbidUserNamespaces() {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWUSER) != 0) Give(fmt::format("skip unshare errno {}", errno));
  WriteOrGive("/proc/self/setgroups", "deny");
  WriteOrGive("/proc/self/uid_map", fmt::format("{} {} 1\n", uid, uid));
  WriteOrGive("/proc/self/gid_map", fmt::format("{} {} 1\n", gid, gid));
  WriteOrGive("/proc/sys/user/max_user_namespaces", "0\n");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) != 0) Give("error capset");
}

// Another process of the same user, as a trainer is to a gate that runs under the same uid. It ends
// when the helper does, that is, when the last end of a pipe is closed that the helper keeps at
// kSiblingFd. PDEATHSIG would not do: it is sent with the rights of the parent that ends, and this
// one is behind Landlock's scope for signals.
pid_t StartSibling() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) Give(fmt::format("error pipe {}", errno));
  const pid_t pid = ::fork();
  if (pid < 0) Give(fmt::format("error fork {}", errno));
  if (pid > 0) {
    ::close(ends[0]);
    if (::dup3(ends[1], kSiblingFd, O_CLOEXEC) < 0) Give(fmt::format("error dup3 {}", errno));
    ::close(ends[1]);
    return pid;
  }
  if (::dup2(ends[0], 0) < 0) ::_exit(1);
  ::close_range(3, ~0U, 0);
  char byte = 0;
  while (::read(0, &byte, 1) < 0 && errno == EINTR) {
  }
  ::_exit(0);
}

SmallDriver& Driver() {
  static SmallDriver driver;
  return driver;
}

// What a GPU driver does, and what it must not be able to do yet.
Status StartDriver(bool fails) {
  if (fails) return Unsupported("there is no GPU");
  const std::string failed = Driver().Start();
  if (!failed.empty()) return Internal("the driver's start: {}", failed);
  for (const char* attack : {"sendmsg", "socket", "io_uring", "fork", "execve", "connect"}) {
    if (Attack(attack) != EPERM) return Internal("stage A is open: {}", attack);
  }
  return ::socket(AF_UNIX, SOCK_DGRAM, 0) < 0 ? OkStatus() : Internal("stage A is open: datagrams");
}

// Behind all walls: the driver goes on with its work, and is as walled as everybody on its thread,
// which was there before the strict filter.
std::string DriverBehindTheWalls(const TryContext& context) {
  if (std::string failed = Driver().Work(); !failed.empty()) return failed;
  for (const char* attack : {"socket", "memfd", "fork", "execve", "io_uring", "prlimit"}) {
    const int error = Driver().OnItsThread([attack] { return Attack(attack); });
    if (error != EPERM) return fmt::format("{} {}", attack, error);
  }
  for (const ForbiddenFile& file : context.forbidden) {
    const int error = Driver().OnItsThread([&file] {
      const int fd = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
      return fd < 0 ? errno : 0;
    });
    if (error != EACCES) return fmt::format("read_{} {}", file.name, error);
  }
  const int own = Driver().OnItsThread([] {
    const int fd = ::open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? errno : 0;
  });
  return own == 0 ? "ok" : fmt::format("own threads {}", own);
}

WallSpec MakeSpec(const HelperOptions& options, Role role, const WallFaults* faults) {
  WallSpec spec;
  spec.role = role;
  spec.kept_fds = {{kChannelFd, FdKind::kChannel}, {kSiblingFd, FdKind::kPipe}};
  if (role == Role::kLink) {
    spec.kept_fds.push_back({kPinFd, FdKind::kChannel});
    spec.pin_channel = kPinFd;
  }
  if (options.Has("keep")) {
    const FdKind kind = options.Get("keep") == "file" ? FdKind::kReadOnlyFile : FdKind::kChannel;
    spec.kept_fds.push_back({kExtraFd, kind});
  }
  for (const std::string& path : options.List("rw")) spec.read_write.emplace_back(path);
  for (const std::string& path : options.List("ro")) spec.read_only.emplace_back(path);
  spec.chroot = options.Get("chroot");
  if (options.Has("separate_uid")) {
    spec.uid = kNobody;
    spec.gid = kNobody;
  }
  const Result<pid_t> parent = ExpectedParent();
  if (!parent) Give("error " + parent.error().message());
  spec.expected_parent = *parent;
  if (options.Has("wrong_parent")) spec.expected_parent = 1;
  if (options.Has("gpu")) {
    spec.rewritable = {"/proc/self/task"};
    spec.start_up = [fails = options.Get("gpu") == "none"] { return StartDriver(fails); };
  }
  spec.faults = faults;
  return spec;
}

TryContext MakeContext(const HelperOptions& options, Role role) {
  TryContext context;
  context.role = role;
  context.sibling = StartSibling();
  context.chrooted = options.Has("chroot");
  for (const std::string& pair : options.List("forbidden")) {
    const size_t colon = pair.find(':');
    context.forbidden.push_back({pair.substr(0, colon), pair.substr(colon + 1)});
  }
  for (const std::string& path : options.List("readable")) context.readable.emplace_back(path);
  for (const std::string& path : options.List("writable")) context.writable.emplace_back(path);
  return context;
}

// A whole start in one call, as the programs make it.
[[noreturn]] void RunTested(const HelperOptions& options, Role role) {
  const WallFaults faults = MakeFaults(options);
  TestedSpec spec;
  spec.tries = MakeContext(options, role);
  spec.walls = MakeSpec(options, role, &faults);
  const Result<WallSet> demanded = ParseWallSet(options.Get("demanded"));
  if (!demanded) Give("error " + demanded.error().message());
  spec.demanded = *demanded;
  spec.files_may_be_open = options.Has("files_may_be_open");
  const Result<TestedWalls> tested = RaiseTestedWalls(spec);
  if (!tested) Give("error " + tested.error().ToString());
  Say(EncodeStatement({tested->report, spec.walls.kept_fds, "", tested->rows}));
  if (options.Has("attack")) Say(fmt::format("attack {}", Attack(options.Get("attack"))));
  Say("done");
  ::_exit(0);
}

Status Work(const HelperOptions& options, Role role) {
  switch (role) {
    case Role::kTrainer:
      return TrainerWork(options.Get("work"));
    case Role::kGate:
      return GateWork(options.Get("work"));
    case Role::kLink:
      return LinkWork(options);
    case Role::kCarrier:
      return CarrierWork(options.Get("work"));
  }
  return Internal("no role");
}

// Facts that are not tries: what RaiseWalls must have left behind.
void TellState() {
  rlimit core{}, files{};
  ::syscall(SYS_prlimit64, 0, RLIMIT_CORE, nullptr, &core);
  ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &files);
  Say(fmt::format("state core={} files={} extra_fd={} uid={}", core.rlim_max, files.rlim_max,
                  ::fcntl(kExtraFd, F_GETFD) < 0 ? errno : 0, ::syscall(SYS_geteuid)));
}

[[noreturn]] void Run(const HelperOptions& options) {
  if (options.Has("curve_server")) RunCurveServer();
  if (options.Has("exit")) ::_exit(std::atoi(options.Get("exit").c_str()));
  if (options.Has("signal")) {
    std::signal(std::atoi(options.Get("signal").c_str()), SIG_DFL);
    ::raise(std::atoi(options.Get("signal").c_str()));
  }
  if (options.Has("wait")) Hear();
  if (options.Has("user")) BecomeNobody();
  if (options.Has("no_userns")) ForbidUserNamespaces();
  const Result<Role> role = ParseRole(options.Get("role"));
  if (!role) Give("error " + role.error().message());
  if (options.Has("tested")) RunTested(options, *role);
  const WallFaults faults = MakeFaults(options);
  TryContext context = MakeContext(options, *role);
  Result<std::vector<TryRow>> rows = RunControl(context);
  if (!rows) Give("error " + rows.error().message());

  // A thread from before the walls: Landlock does not bind it.
  std::atomic<bool> walled = false;
  std::atomic<int> early_read = -1;
  std::thread early;
  if (options.Has("early_thread")) {
    early = std::thread([&] {
      while (!walled) ::usleep(1000);
      const int fd = ::open(context.forbidden.front().path.c_str(), O_RDONLY);
      early_read = fd < 0 ? errno : 0;
    });
  }
  const WallSpec spec = MakeSpec(options, *role, &faults);
  const Result<WallReport> report = RaiseWalls(spec);
  walled = true;
  if (!report) Give("error " + report.error().message());
  if (early.joinable()) early.join();

  context.chrooted = report->row(Wall::kChroot).state == WallState::kUp;
  const Status tried = RunWalled(context, *rows);
  if (!tried.ok()) Give("error " + tried.message());
  IsolationStatement statement{*report, spec.kept_fds, options.Get("pinned"), *rows};
  Say(EncodeStatement(statement));
  if (options.Has("early_thread")) Say(fmt::format("early_read {}", early_read.load()));
  TellState();
  if (options.Has("gpu")) Say("driver " + DriverBehindTheWalls(context));
  if (options.Has("work")) Tell("work", Work(options, *role));
  if (options.Has("probe_pin")) Say("probe " + ProbePin());
  if (options.Has("lock_down")) {
    Tell("lock_down", LockDown(*role));
    if (options.Has("work")) Tell("work_again", Work(options, *role));
  }
  if (options.Has("hear")) Hear();
  if (options.Has("attack")) {
    Say(fmt::format("attack {}", Attack(options.Get("attack"))));
  }
  Say("done");
  ::_exit(0);
}

}  // namespace
}  // namespace tidegate::onshore

int main(int count, char** words) {
  tidegate::onshore::Run(tidegate::onshore::HelperOptions(count, words));
}
