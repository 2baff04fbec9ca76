// Whole runs: to the base that they write, stopped and resumed, and what is refused.
#include "pretrain/run.h"

#include <stdlib.h>

#include <cmath>
#include <fstream>
#include <optional>

#include "base/file.h"
#include "model/transformer.h"
#include "pretrain/samples.h"
#include "ranks.h"

namespace tidegate::pretrain {
namespace {

namespace fs = std::filesystem;

class Runs : public testing::Test {
 protected:
  Runs() {
    std::string name = (fs::temp_directory_path() / "tg_pretrain_XXXXXX").native();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    dir_ = name;
    std::ofstream(dir_ / "config.json") << ToHfJson(TinyConfig());
    std::ofstream(dir_ / "tokenizer.json") << "{}";
  }
  ~Runs() override { fs::remove_all(dir_); }

  PretrainConfig Config(const std::string& out) const {
    PretrainConfig config;
    config.model_config = dir_ / "config.json";
    config.tokenizer = dir_;
    config.output_dir = dir_ / out;
    config.dtype = "f32";
    config.max_length = 32;
    config.per_device_train_batch_size = 1;
    config.global_batch_size = 4;
    config.max_steps = 12;
    config.learning_rate = 1e-2;
    config.warmup_steps = 2;
    config.save_steps = 4;
    config.eval_sequences = 4;
    config.save_dtype = "f32";
    return config;
  }
  // The report of rank 0; `stop_after` steps a signal comes to the last rank.
  static Result<RunReport> Run(const PretrainConfig& config, int ranks, int stop_after = 1000) {
    std::optional<Result<RunReport>> report;
    OnRanks(ranks, [&](cluster::Collectives* group) {
      Walks train(32), held_out(32, 200);
      int asked = 0;
      const bool last = group == nullptr || group->rank() == ranks - 1;
      RunParts parts;
      parts.train = &train;
      parts.held_out = &held_out;
      parts.control = parts.data = group;
      parts.stop_asked = [&] { return last && ++asked >= stop_after; };
      auto mine = RunPretraining(config, parts);
      if (group == nullptr || group->rank() == 0) report.emplace(std::move(mine));
    });
    return *report;
  }
  Bytes Weights(const std::string& out) const {
    return Must(ReadFile(dir_ / out / "base/model.safetensors", 1 << 28));
  }

  fs::path dir_;
};

TEST_F(Runs, TheBaseIsAModelThatLearnt) {
  const RunReport report = Must(Run(Config("out"), 2));
  EXPECT_EQ(report.steps, 12);
  ASSERT_TRUE(report.has_held_out);
  EXPECT_LT(report.held_out_nll, std::log(300.0));
  const auto base = Must(model::Base::Load(report.base, {}));
  const auto engine = Must(model::Engine::Create(base, model::LoraConfig{}));
  Walks held_out(32, 200);
  double loss = 0;
  for (uint64_t i = 0; i < 4; ++i) {
    loss += Must(engine->Evaluate(Must(ReadBatch(held_out, i, 1)))).loss;
  }
  EXPECT_NEAR(loss / (4 * 32), report.held_out_nll, 1e-6);
  EXPECT_TRUE(fs::exists(report.base / "tokenizer.json"));
  EXPECT_TRUE(fs::exists(dir_ / "out/report.html"));
}

TEST_F(Runs, StoppedAndResumedWithOtherRanksIsTheSameBase) {
  (void)Must(Run(Config("whole"), 1));
  PretrainConfig config = Config("parts");
  const auto stopped = Run(config, 2, 6);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code(), Code::kCancelled) << stopped.error().ToString();
  EXPECT_FALSE(fs::exists(dir_ / "parts/base"));
  config.resume = true;
  const RunReport report = Must(Run(config, 4));
  EXPECT_EQ(report.resumed_at, 6);
  EXPECT_EQ(Weights("whole"), Weights("parts"));
}

TEST_F(Runs, ARunThatIsOverIsNotDoneTwice) {
  PretrainConfig config = Config("out");
  (void)Must(Run(config, 1));
  const auto again = Run(config, 1);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), Code::kAlreadyExists);
  config.resume = true;
  const RunReport report = Must(Run(config, 1));
  EXPECT_EQ(report.resumed_at, 12);
  EXPECT_EQ(report.base, dir_ / "out/base");
}

TEST_F(Runs, ADamagedCheckpointIsPassedOverByAllRanks) {
  PretrainConfig config = Config("out");
  ASSERT_FALSE(Run(config, 2, 9));  // stopped at 9; 8 is there too
  std::ofstream(dir_ / "out/checkpoints/step-00000009/part-0001.json") << "{}";
  config.resume = true;
  EXPECT_EQ(Must(Run(config, 2)).resumed_at, 8);
}

TEST_F(Runs, OtherSettingsAreNotResumed) {
  PretrainConfig config = Config("out");
  ASSERT_FALSE(Run(config, 1, 3));
  config.resume = true;
  config.learning_rate = 1e-3;
  const auto refused = Run(config, 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.error().message().find("learning_rate"), std::string::npos);
}

TEST_F(Runs, GoesOnFromABase) {
  PretrainConfig config = Config("first");
  (void)Must(Run(config, 1));
  PretrainConfig more = Config("second");
  more.model_config.clear();
  more.tokenizer.clear();
  more.base = dir_ / "first/base";
  more.max_steps = 4;
  more.warmup_steps = 1;
  const RunReport report = Must(Run(more, 2));
  EXPECT_LT(report.loss, 4.5);
  EXPECT_TRUE(fs::exists(dir_ / "second/base/tokenizer.json"));
}

TEST_F(Runs, AWildRateEndsTheRunWithWhatItHadLearnt) {
  PretrainConfig config = Config("out");
  config.learning_rate = 1e30;
  config.warmup_steps = 1;
  config.max_grad_norm = 0;
  config.lr_scheduler_type = "constant_with_warmup";
  const auto failed = Run(config, 2);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), Code::kFailedPrecondition) << failed.error().ToString();
  EXPECT_TRUE(fs::exists(dir_ / "out/checkpoints"));
}

TEST(PretrainConfig, OptionsThatCannotBeAreNamed) {
  PretrainConfig config;
  config.model_config = "config.json";
  EXPECT_TRUE(CheckConfig(config).ok());
  const auto expect = [&](auto change, const char* name) {
    PretrainConfig wrong = config;
    change(wrong);
    EXPECT_NE(CheckConfig(wrong).message().find(name), std::string::npos) << name;
  };
  expect([](PretrainConfig& c) { c.base = "too"; }, "--base");
  expect([](PretrainConfig& c) { c.model_config.clear(); }, "--model_config");
  expect([](PretrainConfig& c) { c.reduction = "quick"; }, "quick");
  expect([](PretrainConfig& c) { c.save_dtype = "f16"; }, "f16");
  expect([](PretrainConfig& c) { c.max_length = 0; }, "max_length");
  expect([](PretrainConfig& c) { c.warmup_ratio = 2; }, "warmup_ratio");
  expect([](PretrainConfig& c) { c.num_train_epochs = 0; }, "num_train_epochs");
  expect([](PretrainConfig& c) { c.save_total_limit = 0; }, "save_total_limit");
  expect([](PretrainConfig& c) { c.peak_tflops = -1; }, "peak_tflops");
}

TEST(PretrainConfig, EpochsBecomeSteps) {
  PretrainConfig config;
  config.per_device_train_batch_size = 4;
  config.num_train_epochs = 2.5;
  EXPECT_EQ(Must(StepsOf(config, 2, 100)).schedule.total_steps, 31);  // 250 / 8
  const auto refused = StepsOf(config, 2, 3);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("3 sequences"), std::string::npos);
}

// An embedding that is not the head is only looked up.
TEST(PretrainConfig, FlopsOfAToken) {
  model::ModelConfig config = TinyConfig();
  const double tied = FlopsPerToken(config, 32);
  EXPECT_EQ(tied, 6.0 * static_cast<double>(config.num_parameters()) + 12.0 * 3 * 48 * 32);
  config.tied = false;
  EXPECT_EQ(FlopsPerToken(config, 32), tied);
}

}  // namespace
}  // namespace tidegate::pretrain
