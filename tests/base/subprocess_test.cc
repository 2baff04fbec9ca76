#include "base/subprocess.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <csignal>

#include "base/file.h"

namespace tidegate {
namespace {

TEST(Subprocess, OutputErrorsAndExitCodeComeBack) {
  auto result = RunCommand({"sh", "-c", "echo out; echo err >&2; exit 3"}, 10'000);
  ASSERT_TRUE(result.has_value()) << result.error().ToString();
  EXPECT_EQ(result->output, "out\n");
  EXPECT_EQ(result->errors, "err\n");
  EXPECT_EQ(result->exit_code, 3);
  EXPECT_EQ(RunCommand({"sh", "-c", "kill -9 $$"}, 10'000)->exit_code, 128 + SIGKILL);
  EXPECT_NE(
      RunCommandOk({"sh", "-c", "echo why >&2; exit 1"}, 10'000).error().message().find("why"),
      std::string::npos);
}

TEST(Subprocess, TimeAndOutputAreBounded) {
  EXPECT_EQ(RunCommand({"sleep", "60"}, 50).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(RunCommand({"sh", "-c", "while :; do echo xxxxxxxxxxxxxxxx; done"}, 10'000, 1000)
                .error()
                .code(),
            Code::kResourceExhausted);
  EXPECT_EQ(RunCommand({"/nonexistent/program"}, 1000).error().code(), Code::kNotFound);
}

TEST(Subprocess, AChildRunsBesideUsAndDiesWithItsObject) {
  const auto log = std::filesystem::temp_directory_path() /
                   fmt::format("tidegate_subprocess_{}.log", ::getpid());
  std::filesystem::remove(log);
  pid_t pid = -1;
  {
    auto child = ChildProcess::Start({"sh", "-c", "echo started; exec sleep 60"}, log);
    ASSERT_TRUE(child.has_value());
    pid = child->pid();
    EXPECT_FALSE(child->Wait(20).has_value());
  }
  EXPECT_EQ(kill(pid, 0), -1);
  auto quick = ChildProcess::Start({"sh", "-c", "echo more; exit 4"}, log);
  EXPECT_EQ(quick->Wait(10'000), 4);
  EXPECT_NE(ReadTextFile(log, 1000)->find("more"), std::string::npos);
  std::filesystem::remove(log);
}

}  // namespace
}  // namespace tidegate
