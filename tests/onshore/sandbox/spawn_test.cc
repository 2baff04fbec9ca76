#include "onshore/sandbox/spawn.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <iterator>

#include "tests/onshore/sandbox/helper_run.h"

namespace tidegate::onshore {
namespace {

Result<Child> Start(const std::string& script, std::vector<int> fds = {}) {
  SpawnSpec spec;
  spec.program = "/bin/sh";
  spec.arguments = {"-c", script};
  spec.environment = {"PATH=/usr/bin:/bin"};
  spec.fds = std::move(fds);
  return Spawn(spec);
}

ChildEnd EndOf(const std::string& script, std::vector<int> fds = {}) {
  const Result<Child> child = Start(script, std::move(fds));
  EXPECT_TRUE(child) << child.error().message();
  const Result<std::optional<ChildEnd>> end = Reap(*child, true);
  EXPECT_TRUE(end && *end);
  return **end;
}

TEST(SpawnTest, EndsAreMapped) {
  EXPECT_EQ(EndOf("exit 0").end, End::kClean);
  const ChildEnd failed = EndOf("exit 7");
  EXPECT_EQ(failed.end, End::kCrash);
  EXPECT_EQ(failed.exit_status, 7);
  const ChildEnd aborted = EndOf("kill -ABRT $$");
  EXPECT_EQ(aborted.end, End::kCrash);
  EXPECT_EQ(aborted.signal, SIGABRT);
  EXPECT_EQ(EndOf("kill -KILL $$").end, End::kKilled);
  EXPECT_EQ(EndOf("kill -TERM $$").end, End::kKilled);
  EXPECT_EQ(EndOf("kill -SYS $$").end, End::kWallHit);
}

TEST(SpawnTest, AProgramThatCannotRunIsAnErrorAtOnce) {
  SpawnSpec spec;
  spec.program = "/nonexistent/tidegate-trainer";
  const Result<Child> child = Spawn(spec);
  ASSERT_FALSE(child);
  EXPECT_EQ(child.error().code(), Code::kNotFound);
  EXPECT_NE(child.error().message().find("/nonexistent/tidegate-trainer"), std::string::npos);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a zombie is left";
}

TEST(SpawnTest, OnlyTheGrantedDescriptorsCross) {
  // Open, inheritable and forgotten.
  const Fd forgotten(::open("/", O_RDONLY | O_DIRECTORY));
  const Fd high(::fcntl(forgotten.get(), F_DUPFD, 200));
  Result<Channel> channel = MakeChannel();
  ASSERT_TRUE(channel);
  // The shell's own handle of the directory is gone again when the name is looked at.
  const ChildEnd end = EndOf(
      "for n in /proc/$$/fd/*; do [ -e $n ] || continue; "
      "case ${n##*/} in 0|1|2|3|4) ;; *) exit 9;; esac; done; "
      "[ \"$(readlink /proc/$$/fd/0)\" = /dev/null ] && [ \"$(readlink /proc/$$/fd/1)\" = "
      "/dev/null ]"
      " && [ -S /proc/$$/fd/3 ] && [ -S /proc/$$/fd/4 ]",
      {channel->child.get(), channel->supervisor.get()});
  EXPECT_EQ(end.exit_status, 0);
}

TEST(SpawnTest, DescriptorsKeepTheirOrderWhateverTheirNumbers) {
  // The sources lie on the targets, crossed.
  const Fd zero(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  const Fd full(::open("/dev/full", O_RDONLY | O_CLOEXEC));
  const std::string check =
      "[ \"$(readlink /proc/$$/fd/3)\" = {} ] && [ \"$(readlink /proc/$$/fd/4)\" = {} ]";
  EXPECT_EQ(
      EndOf(fmt::format(fmt::runtime(check), "/dev/zero", "/dev/full"), {zero.get(), full.get()})
          .exit_status,
      0);
  EXPECT_EQ(
      EndOf(fmt::format(fmt::runtime(check), "/dev/full", "/dev/zero"), {full.get(), zero.get()})
          .exit_status,
      0);
}

struct KernelSigaction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  unsigned long mask;
};

// libc refuses signals 32 and 33, but a program that this one was started by may have ignored them.
KernelSigaction SetByKernel(int number, KernelSigaction action) {
  KernelSigaction old{};
  EXPECT_EQ(::syscall(SYS_rt_sigaction, number, &action, &old, sizeof(action.mask)), 0);
  return old;
}

TEST(SpawnTest, SignalsStartAtTheirDefaultsAndUnblocked) {
  sigset_t blocked, before;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGTERM);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &blocked, &before), 0);
  constexpr int kIgnored[] = {SIGPIPE, 32, 33, 64};
  KernelSigaction old[std::size(kIgnored)];
  for (std::size_t i = 0; i < std::size(kIgnored); ++i) {
    old[i] = SetByKernel(kIgnored[i], {SIG_IGN, 0, nullptr, 0});
  }
  const Fd seen(::memfd_create("status", MFD_CLOEXEC));
  // By the shell itself: it blocks signals while it starts a program.
  const ChildEnd end = EndOf(
      "while read -r name value; do case $name in Sig[BI]*) echo $name $value >&3;; esac; done "
      "< /proc/$$/status",
      {seen.get()});
  for (std::size_t i = 0; i < std::size(kIgnored); ++i) SetByKernel(kIgnored[i], old[i]);
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
  EXPECT_EQ(end.exit_status, 0);
  char text[256] = {};
  ASSERT_GT(::pread(seen.get(), text, sizeof(text) - 1, 0), 0);
  EXPECT_STREQ(text, "SigBlk: 0000000000000000\nSigIgn: 0000000000000000\n");
}

TEST(SpawnTest, TheEnvironmentIsTheGivenOne) {
  ASSERT_EQ(::setenv("TIDEGATE_SECRET_OF_THE_PARENT", "1", 1), 0);
  EXPECT_EQ(EndOf(fmt::format("[ -z \"$TIDEGATE_SECRET_OF_THE_PARENT\" ] && "
                              "[ \"$TIDEGATE_SUPERVISOR_PID\" = {} ]",
                              ::getpid()))
                .exit_status,
            0);
  SpawnSpec spec;
  spec.program = "/bin/true";
  spec.environment = {"TIDEGATE_SUPERVISOR_PID=1"};
  EXPECT_EQ(Spawn(spec).error().code(), Code::kInvalidArgument);
}

TEST(SpawnTest, TooManyDescriptorsAreRefused) {
  SpawnSpec spec;
  spec.program = "/bin/true";
  spec.fds.assign(kMaxSpawnFds + 1, 0);
  EXPECT_EQ(Spawn(spec).error().code(), Code::kInvalidArgument);
}

TEST(SpawnTest, APidfdTellsTheEndAndKillReachesIt) {
  const Result<Child> child = Start("sleep 60");
  ASSERT_TRUE(child) << child.error().message();
  Result<std::optional<ChildEnd>> end = Reap(*child, false);
  ASSERT_TRUE(end);
  EXPECT_FALSE(end->has_value());
  EXPECT_TRUE(Kill(*child).ok());
  pollfd wait{child->pidfd.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&wait, 1, 10'000), 1);
  end = Reap(*child, false);
  ASSERT_TRUE(end && end->has_value());
  EXPECT_EQ((*end)->end, End::kKilled);
  EXPECT_FALSE(Reap(*child, false)) << "reaped twice";
}

TEST(SpawnTest, AChannelKeepsMessagesApartAndForARestartedReader) {
  Result<Channel> channel = MakeChannel();
  ASSERT_TRUE(channel);
  EXPECT_NE(::fcntl(channel->child.get(), F_GETFD) & FD_CLOEXEC, 0);
  ASSERT_EQ(::send(channel->supervisor.get(), "one", 3, 0), 3);
  ASSERT_EQ(::send(channel->supervisor.get(), "three", 5, 0), 5);
  char buffer[16];
  EXPECT_EQ(::recv(channel->child.get(), buffer, sizeof(buffer), 0), 3);
  EXPECT_EQ(::recv(channel->child.get(), buffer, 2, MSG_TRUNC), 5) << "the true length";
}

// The supervisor of a helper: starts it, becomes `uid` if that is not 0, says so and waits.
[[noreturn]] void BeSupervisor(const SpawnSpec& spec, uid_t uid, int ready) {
  const Result<Child> child = Spawn(spec);
  if (!child || (uid != 0 && ::setresuid(uid, uid, uid) != 0) || ::write(ready, "r", 1) != 1) {
    ::_exit(1);
  }
  while (true) ::pause();
}

// Starts a walled trainer from a process of its own, which is then killed: whether the trainer, and
// what it started, dies with it. The test keeps the other end of its channel, so no end of that can
// be the reason.
bool DiesWithItsSupervisor(const std::vector<std::string>& more, uid_t supervisor_uid) {
  const Site site;
  Result<Channel> channel = MakeChannel();
  LogPipe log;
  int ready[2];
  EXPECT_TRUE(channel.has_value());
  EXPECT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  SpawnSpec spec;
  spec.program = HelperProgram();
  spec.arguments = site.Words(Role::kTrainer);
  std::erase_if(spec.arguments, [](const std::string& word) { return word.starts_with("work="); });
  spec.arguments.push_back("hear");
  spec.arguments.insert(spec.arguments.end(), more.begin(), more.end());
  spec.environment = HelperEnvironment();
  spec.fds = {channel->child.get()};
  spec.log_fd = log.write.get();
  const pid_t supervisor = ::fork();
  if (supervisor == 0) BeSupervisor(spec, supervisor_uid, ready[1]);
  channel->child.reset();
  log.write.reset();
  const Fd ready_read(ready[0]);
  ::close(ready[1]);
  char byte = 0;
  EXPECT_EQ(::read(ready_read.get(), &byte, 1), 1) << "it could not start";
  std::vector<char> buffer(kMaxStatementBytes);
  const int fd = channel->supervisor.get();
  // The statement and the state: it is walled and waits.
  for (int i = 0; i < 2; ++i) EXPECT_GT(::recv(fd, buffer.data(), buffer.size(), 0), 0);
  EXPECT_EQ(::kill(supervisor, SIGKILL), 0);
  EXPECT_EQ(::waitpid(supervisor, nullptr, 0), supervisor);
  // The kernel sends the signal before the supervisor can be waited for; who has got it does not
  // answer any more.
  (void)::send(fd, "go on", 5, MSG_NOSIGNAL);
  pollfd wait{fd, POLLIN, 0};
  EXPECT_EQ(::poll(&wait, 1, 10'000), 1);
  const bool answered = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT) > 0;
  std::string said;
  EXPECT_TRUE(log.Ends(said)) << "it or its sibling lives on; " << said;
  return !answered;
}

TEST(SpawnTest, AWalledChildDiesWithItsSupervisor) { EXPECT_TRUE(DiesWithItsSupervisor({}, 0)); }

TEST(SpawnTest, AWalledChildUnderItsOwnUidDiesWithItsRootSupervisor) {
  if (::geteuid() != 0) GTEST_SKIP() << "wall separate_uids: setresuid errno 1 (not root)";
  EXPECT_TRUE(DiesWithItsSupervisor({"separate_uid"}, 0));
}

// Negative control: the signal is sent with the rights of the process that dies. The supervisor
// keeps its uid for that reason; a trainer that lived on would be seen by the two tests above.
TEST(SpawnTest, AChildOutlivesASupervisorThatDroppedToAnotherUid) {
  if (::geteuid() != 0) GTEST_SKIP() << "supervisor under another uid: setresuid errno 1";
  constexpr uid_t kAnother = 65533;
  EXPECT_FALSE(DiesWithItsSupervisor({"separate_uid"}, kAnother));
}

}  // namespace
}  // namespace tidegate::onshore
