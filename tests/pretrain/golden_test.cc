// Steps of pretraining against PyTorch's (tests/golden/make_pretrain_trace.py).
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "pretrain/trainer.h"
#include "ranks.h"

namespace tidegate::pretrain {
namespace {

using nlohmann::json;

const std::filesystem::path kGolden = std::filesystem::path(TIDEGATE_SOURCE_DIR) / "tests/golden";

class Listed final : public SampleSource {
 public:
  explicit Listed(const json& trace)
      : length_(trace.at("length").get<int64_t>()),
        ids_(trace.at("ids").get<std::vector<std::vector<int32_t>>>()) {}
  int64_t length() const override { return length_; }
  uint64_t samples_per_epoch() const override { return ids_.size(); }
  uint64_t fingerprint() const override { return 1; }
  int64_t vocab_size() const override { return 1; }
  Status Read(uint64_t index, std::span<int32_t> out) override {
    std::copy(ids_.at(index).begin(), ids_.at(index).end(), out.begin());
    return OkStatus();
  }

 private:
  int64_t length_;
  std::vector<std::vector<int32_t>> ids_;
};

StepConfig ConfigOf(const json& trace) {
  StepConfig config;
  config.schedule = {.type = train::SchedulerType::kCosineWithMinLr,
                     .learning_rate = trace.at("learning_rate").get<double>(),
                     .warmup_steps = trace.at("warmup_steps").get<int64_t>(),
                     .total_steps = trace.at("total_steps").get<int64_t>(),
                     .min_lr_ratio = trace.at("min_lr_ratio").get<double>()};
  config.adamw.beta2 = 0.95;
  config.adamw.weight_decay = trace.at("weight_decay").get<double>();
  config.global_batch_size = trace.at("batch").get<int64_t>();
  return config;
}

void ExpectTrace(cluster::Collectives* group) {
  const json trace = json::parse(Must(ReadTextFile(kGolden / "pretrain/trace.json", 1 << 20)));
  const auto config = Must(model::LoadHfConfig(kGolden / "tiny_qwen3/config.json"));
  Rank rank(config, ConfigOf(trace), group);
  Listed source(trace);
  auto trainer = Must(Trainer::Create(*rank.model, source, rank.partition, rank.shard, group, group,
                                      ConfigOf(trace)));
  rank.trainer.reset();
  ASSERT_TRUE(LoadMasters(kGolden / "tiny_qwen3", *rank.model, rank.partition, &rank.shard).ok());
  ASSERT_TRUE(trainer->SpreadWeights().ok());
  for (const json& step : trace.at("steps")) {
    const auto result = Must(trainer->Step({})).result;
    const double loss = step.at("loss").get<double>(), norm = step.at("grad_norm").get<double>();
    EXPECT_NEAR(result.loss, loss, 2e-5 * loss) << result.step;
    EXPECT_NEAR(result.grad_norm, norm, 1e-4 * norm) << result.step;
    EXPECT_NEAR(result.learning_rate, step.at("learning_rate").get<double>(), 1e-12);
  }
  const std::vector<float> masters = Must(trainer->GatherMasters());
  if (rank.rank != 0) return;
  for (const model::FlatTensor& tensor : rank.model->layout().tensors) {
    double sum = 0;
    for (int64_t i = 0; i < tensor.count; ++i) {
      sum += masters[static_cast<size_t>(tensor.offset + i)];
    }
    // A step of Adam moves each element by about the rate, whichever way rounding tips it.
    EXPECT_NEAR(sum, trace.at("sums").at(tensor.name).get<double>(),
                1e-4 * std::sqrt(static_cast<double>(tensor.count)) + 1e-3)
        << tensor.name;
  }
}

TEST(PretrainGolden, StepsAreThoseOfPyTorch) { ExpectTrace(nullptr); }

TEST(PretrainGolden, StepsOverTwoRanksAreThoseOfPyTorch) { OnRanks(2, ExpectTrace); }

}  // namespace
}  // namespace tidegate::pretrain
