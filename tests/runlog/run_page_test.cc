#include "runlog/run_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "runlog/progress.h"

namespace tidegate::runlog {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

class RunPage : public testing::Test {
 protected:
  RunPage() {
    std::string name = (fs::temp_directory_path() / "tg_run_page_XXXXXX").native();
    dir_ = ::mkdtemp(name.data());
  }
  ~RunPage() override { fs::remove_all(dir_); }
  void Write(const std::string& metrics) {
    ASSERT_TRUE(WriteFileDurably(dir_ / "metrics.jsonl", AsBytes(metrics)).ok());
  }
  std::string Page() {
    const Status status = WriteRunPage(dir_);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return ReadTextFile(dir_ / "report.html", 1 << 20).value_or("");
  }
  static std::string StepsOf(int count) {
    std::string text;
    for (int i = 1; i <= count; ++i) {
      text += StepLine({.step = i, .loss = 4.0 / i, .learning_rate = 1e-4, .grad_norm = 1}).dump();
      text += "\n";
    }
    return text;
  }
  fs::path dir_;
};

TEST_F(RunPage, DrawsWhatTheMetricsHoldAndNamesTheRun) {
  Write(R"({"event":"start","walls":"netns","run":{"base":"<b>"}})"
        "\n" +
        StepsOf(3) + R"({"event":"eval","step":3,"nll":1.5})" + "\n");
  const std::string page = Page();
  EXPECT_THAT(page, HasSubstr("3 steps, last loss 1.3333, held-out NLL 1.5000."));
  for (const char* title : {"Loss (", "Learning rate", "Gradient norm", "held out"}) {
    EXPECT_THAT(page, HasSubstr(title));
  }
  EXPECT_THAT(page, HasSubstr("&lt;b&gt;"));
  EXPECT_THAT(page, Not(HasSubstr("<b>")));
}

TEST_F(RunPage, AStopALossThatIsNoneAndACutLineAreSurvived) {
  Write(StepsOf(2) + R"({"event":"step","step":3,"loss":null})" + "\n" +
        R"({"event":"end","stopped":true})" + "\n" + R"({"event":"st)");
  EXPECT_THAT(Page(), HasSubstr("2 steps, last loss 2.0000. Stopped"));
}

TEST_F(RunPage, LinesOfOtherTypesAreLeftOut) {
  Write(StepsOf(2) + R"({"event":5,"step":3,"loss":1})" + "\n" + R"({"step":4,"loss":1})" + "\n" +
        R"({"event":"end","stopped":"no"})" + "\n");
  EXPECT_THAT(Page(), HasSubstr("2 steps, last loss 2.0000.</p>"));
}

TEST_F(RunPage, ALongRunIsThinnedToItsMeans) {
  Write(StepsOf(3 * static_cast<int>(kMaxPoints) + 1));
  const std::string page = Page();
  EXPECT_THAT(page, HasSubstr("1801 steps"));
  EXPECT_LT(page.size(), 100'000u);
}

TEST_F(RunPage, WithoutMetricsThereIsNoPage) {
  EXPECT_EQ(WriteRunPage(dir_).code(), Code::kNotFound);
  EXPECT_FALSE(fs::exists(dir_ / "report.html"));
}

}  // namespace
}  // namespace tidegate::runlog
