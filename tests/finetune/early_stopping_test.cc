// Runs with evaluations: when they end, what a stop or a resume does to them, and the event files.
#include <algorithm>
#include <map>
#include <set>

#include "run_fixture.h"
#include "tests/runlog/event_reader.h"

namespace tidegate::finetune {
namespace {

using nlohmann::json;

class EvaluatedRuns : public Runs {
 protected:
  // Its held-out loss, about 6 at first, cannot fall by more than 0.5 for long.
  FinetuneConfig Evaluated(const std::string& name) const {
    FinetuneConfig config = Config(name);
    config.eval_split = 0.2;
    config.eval_steps = 2;
    config.max_steps = 100;
    config.save_steps = 5;
    config.early_stopping_patience = 3;
    config.early_stopping_threshold = 0.5;
    config.report_to = "tensorboard";
    return config;
  }
  // Step and loss of each evaluation in metrics.jsonl.
  static std::vector<std::pair<int64_t, double>> Evaluations(const FinetuneConfig& config) {
    std::vector<std::pair<int64_t, double>> out;
    for (const json& line : Metrics(config)) {
      if (line["event"] == "eval") out.emplace_back(line["step"], line["nll"]);
    }
    return out;
  }
  static void ExpectSameRuns(const FinetuneConfig& one, const FinetuneConfig& other) {
    EXPECT_EQ(NewestState(one), NewestState(other));
    EXPECT_EQ(Content(one.output_dir / "adapter_model.safetensors"),
              Content(other.output_dir / "adapter_model.safetensors"));
    EXPECT_EQ(Content(one.output_dir / "best/adapter_model.safetensors"),
              Content(other.output_dir / "best/adapter_model.safetensors"));
    EXPECT_EQ(Evaluations(one), Evaluations(other));
  }
  // What a reader of the event files sees: a file's start takes back what is at or beyond its step.
  static std::map<int64_t, std::map<std::string, float>> Curves(const FinetuneConfig& config) {
    std::set<fs::path> files;
    for (const auto& entry : fs::directory_iterator(config.output_dir / "runs")) {
      files.insert(entry.path());
    }
    std::map<int64_t, std::map<std::string, float>> curves;
    for (const fs::path& file : files) {
      for (const runlog::ReadEvent& event : runlog::ReadEvents(Content(file))) {
        if (event.session_start) curves.erase(curves.lower_bound(event.step), curves.end());
        for (const auto& [tag, value] : event.scalars) {
          EXPECT_FALSE(curves[event.step].contains(tag)) << tag << " twice at " << event.step;
          curves[event.step][tag] = value;
        }
      }
    }
    return curves;
  }
};

TEST_F(EvaluatedRuns, EndAfterSoManyEvaluationsWithoutImprovement) {
  const FinetuneConfig config = Evaluated("run");
  const auto summary = Run(config);
  ASSERT_TRUE(summary) << summary.error().ToString();
  EXPECT_TRUE(summary->ended_early);
  EXPECT_FALSE(summary->stopped);
  int64_t none = 0, ends = 0;
  double best = 1e9;
  for (const auto& [step, nll] : Evaluations(config)) {
    none = best - nll > 0.5 ? 0 : none + 1;
    best = std::min(best, nll);
    if (none == 3 && ends == 0) ends = step;
  }
  EXPECT_EQ(summary->steps, ends);
  EXPECT_LT(summary->steps, 100);
  EXPECT_EQ(Metrics(config).back()["ended_early"], true);
  EXPECT_TRUE(fs::exists(config.output_dir / "adapter_model.safetensors"));

  // Resumed, it knows that it has ended.
  FinetuneConfig again = config;
  again.resume = true;
  const auto resumed = Run(again).value();
  EXPECT_EQ(resumed.steps_here, 0);
  EXPECT_TRUE(resumed.ended_early);
  EXPECT_EQ(resumed.eval.nll, summary->eval.nll);
  // With more patience it goes on.
  again.early_stopping_patience = 4;
  EXPECT_GT(Run(again).value().steps_here, 0);
}

TEST_F(EvaluatedRuns, AThresholdCountsSmallImprovementsAsNone) {
  FinetuneConfig config = Evaluated("run");
  config.early_stopping_threshold = 100;
  config.early_stopping_patience = 2;
  const auto summary = Run(config);
  ASSERT_TRUE(summary) << summary.error().ToString();
  EXPECT_EQ(summary->steps, 2 + 2 * 2) << "only the first counts";
  EXPECT_GT(summary->best_step, 2) << "the best is the best all the same";
}

// Stops at an evaluation (even steps: it is cut short), beside a saved state and between.
TEST_F(EvaluatedRuns, AStopChangesNothingInTheEnd) {
  const FinetuneConfig whole = Evaluated("whole");
  const auto expected = Run(whole);
  ASSERT_TRUE(expected) << expected.error().ToString();
  const auto curves = Curves(whole);
  EXPECT_EQ(curves.size(), static_cast<size_t>(expected->steps));
  for (const int64_t stop : {int64_t{4}, int64_t{5}, expected->steps}) {
    FinetuneConfig config = Evaluated(fmt::format("stop{}", stop));
    const auto stopped = Run(config, stop);
    ASSERT_TRUE(stopped) << stopped.error().ToString();
    EXPECT_TRUE(stopped->stopped);
    config.resume = true;
    const auto resumed = Run(config);
    ASSERT_TRUE(resumed) << resumed.error().ToString();
    EXPECT_EQ(resumed->steps, expected->steps) << stop;
    EXPECT_TRUE(resumed->ended_early);
    ExpectSameRuns(config, whole);
    auto again = Curves(config);
    ASSERT_EQ(again.size(), curves.size());
    for (const auto& [step, values] : curves) {
      for (const auto& [tag, value] : values) {
        if (tag == "train/tokens_per_second") continue;
        EXPECT_EQ(again[step].at(tag), value) << tag << step;
      }
    }
  }
}

TEST_F(EvaluatedRuns, EventFilesHoldTheCurvesOfMetrics) {
  FinetuneConfig config = Evaluated("run");
  config.max_steps = 5;
  ASSERT_TRUE(Run(config));
  auto curves = Curves(config);
  EXPECT_EQ(curves.size(), 5u);
  for (const json& line : Metrics(config)) {
    if (line["event"] == "step") {
      const auto& values = curves[line["step"]];
      EXPECT_EQ(values.at("train/loss"), line["loss"].get<float>());
      EXPECT_EQ(values.at("train/learning_rate"), line["learning_rate"].get<float>());
      EXPECT_EQ(values.at("train/grad_norm"), line["grad_norm"].get<float>());
      EXPECT_GT(values.at("train/tokens_per_second"), 0);
    } else if (line["event"] == "eval") {
      EXPECT_EQ(curves[line["step"]].at("eval/loss"), line["nll"].get<float>());
      EXPECT_EQ(curves[line["step"]].at("eval/perplexity"), line["perplexity"].get<float>());
    }
  }
  FinetuneConfig none = Config("none");
  none.max_steps = 1;
  ASSERT_TRUE(Run(none));
  EXPECT_FALSE(fs::exists(none.output_dir / "runs"));
}

}  // namespace
}  // namespace tidegate::finetune
