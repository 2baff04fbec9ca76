#include "runlog/progress.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

namespace tidegate::runlog {
namespace {

namespace fs = std::filesystem;

train::StepResult Step(int64_t number, double loss, int64_t targets) {
  return {.step = number,
          .loss = loss,
          .learning_rate = 1e-4,
          .grad_norm = 0.5,
          .tokens = 100,
          .targets = targets,
          .seconds = 0.5};
}

// What `write` puts out.
std::string Captured(const std::function<void(std::FILE*)>& write) {
  char* data = nullptr;
  size_t size = 0;
  std::FILE* file = ::open_memstream(&data, &size);
  write(file);
  std::fclose(file);
  std::string out(data, size);
  std::free(data);
  return out;
}

TEST(ProgressLine, WithoutATerminalThereIsALineEachLoggingStep) {
  const std::string out = Captured([](std::FILE* file) {
    ProgressLine line(file, false, 5, 2);
    for (int64_t i = 1; i <= 5; ++i) line.Step(Step(i, 2.0, 10));
    line.Finish();
  });
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 3);  // steps 2, 4 and the last
  EXPECT_EQ(out.find('\r'), std::string::npos);
  EXPECT_NE(out.find("step 2/5"), std::string::npos);
  EXPECT_NE(out.find("200 tokens/s"), std::string::npos);
  EXPECT_NE(out.find("step 5/5"), std::string::npos);
}

TEST(ProgressLine, TheLossIsWeightedByTargets) {
  const std::string out = Captured([](std::FILE* file) {
    ProgressLine line(file, false, 2, 2);
    line.Step(Step(1, 1.0, 30));
    line.Step(Step(2, 5.0, 10));
  });
  EXPECT_NE(out.find("loss 2.0000"), std::string::npos) << out;
}

TEST(ProgressLine, OnATerminalOneLineIsRedrawn) {
  const std::string out = Captured([](std::FILE* file) {
    ProgressLine line(file, true, 3, 10);
    for (int64_t i = 1; i <= 3; ++i) line.Step(Step(i, 2.0, 10));
    line.Finish();
  });
  EXPECT_EQ(std::count(out.begin(), out.end(), '\r'), 3);
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 1);
}

TEST(FormatSeconds, IsShort) {
  EXPECT_EQ(FormatSeconds(9.2), "9s");
  EXPECT_EQ(FormatSeconds(192), "3m12s");
  EXPECT_EQ(FormatSeconds(7500), "2h05m");
  EXPECT_EQ(FormatSeconds(-1), "0s");
}

class Metrics : public testing::Test {
 protected:
  fs::path path_ = fs::path(testing::TempDir()) / fmt::format("metrics-{}.jsonl", ::getpid());
  void TearDown() override { fs::remove(path_); }
  std::string Text() { return ReadTextFile(path_, 1 << 20).value(); }
  void WriteSteps(int64_t last_step, int64_t from, int64_t to) {
    auto file = MetricsFile::Open(path_, last_step).value();
    ASSERT_TRUE(file.Write({{"event", "start"}}).ok());
    for (int64_t i = from; i <= to; ++i) ASSERT_TRUE(file.Write(StepLine(Step(i, 1, 1))).ok());
  }
};

TEST_F(Metrics, AResumedFileHasEachStepOnce) {
  WriteSteps(0, 1, 7);
  {  // what a kill leaves: half a line
    auto file = std::fopen(path_.c_str(), "a");
    std::fputs("{\"event\":\"step\",\"st", file);
    std::fclose(file);
  }
  WriteSteps(4, 5, 6);
  std::vector<int64_t> steps;
  int starts = 0;
  std::string text = Text();
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    const auto line = nlohmann::json::parse(text.substr(begin, end - begin));
    begin = end + 1;
    if (line["event"] == "start") ++starts;
    if (line.contains("step")) steps.push_back(line["step"]);
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(starts, 2);
}

TEST_F(Metrics, ANewRunStartsTheFileAnew) {
  WriteSteps(0, 1, 7);
  WriteSteps(0, 1, 1);
  const std::string text = Text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
}

}  // namespace
}  // namespace tidegate::runlog
