#include "onshore/sandbox/spawn.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

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

TEST(SpawnTest, SignalsStartAtTheirDefaultsAndUnblocked) {
  sigset_t blocked, before;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGTERM);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &blocked, &before), 0);
  const auto old = std::signal(SIGPIPE, SIG_IGN);
  // By the shell itself: it blocks signals while it starts a program.
  const ChildEnd end = EndOf(
      "seen=; while read -r name value; do case $name in SigBlk:|SigIgn:) seen=x$seen; "
      "[ $value = 0000000000000000 ] || exit 1;; esac; done < /proc/$$/status; [ $seen = xx ]");
  std::signal(SIGPIPE, old);
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
  EXPECT_EQ(end.exit_status, 0);
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

// The helper's parent is a process of its own, which dies: the helper must die with it, and so must
// what the helper started.
TEST(SpawnTest, AWalledChildDiesWithItsSupervisor) {
  Result<Channel> channel = MakeChannel();
  ASSERT_TRUE(channel);
  const Site site;
  LogPipe log;
  const pid_t supervisor = ::fork();
  ASSERT_GE(supervisor, 0);
  if (supervisor == 0) {
    SpawnSpec spec;
    spec.program = HelperProgram();
    spec.arguments = site.Words(Role::kTrainer);
    std::erase_if(spec.arguments,
                  [](const std::string& word) { return word.starts_with("work="); });
    spec.arguments.push_back("hear");
    spec.environment = HelperEnvironment();
    spec.fds = {channel->child.get()};
    spec.log_fd = log.write.get();
    const Result<Child> child = Spawn(spec);
    if (!child) ::_exit(1);
    ::close(channel->child.get());
    ::pause();
    ::_exit(0);
  }
  channel->child.reset();
  log.write.reset();
  std::vector<char> buffer(kMaxStatementBytes);
  // The statement and the state: it is walled and waits.
  for (int i = 0; i < 2; ++i) {
    ASSERT_GT(::recv(channel->supervisor.get(), buffer.data(), buffer.size(), 0), 0);
  }
  ASSERT_EQ(::kill(supervisor, SIGKILL), 0);
  ASSERT_EQ(::waitpid(supervisor, nullptr, 0), supervisor);
  pollfd wait{channel->supervisor.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&wait, 1, 10'000), 1) << "the child lives on";
  EXPECT_EQ(::recv(channel->supervisor.get(), buffer.data(), buffer.size(), 0), 0);
  std::string said;
  EXPECT_TRUE(log.Ends(said)) << "its sibling lives on; " << said;
}

}  // namespace
}  // namespace tidegate::onshore
