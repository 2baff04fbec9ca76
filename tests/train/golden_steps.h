// Optimizer steps against those of a golden trace (tests/golden/README.md).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/model/golden_model.h"
#include "train/loop.h"

namespace tidegate::train {

using tensor::SafetensorsFile;

using model::Floats;
using model::Must;

// Rows 0, 1, 0, 1, ..., without their first `skipped` segments.
class TwoRows final : public tokens::BatchSource {
 public:
  TwoRows(const SafetensorsFile& trace, size_t skipped) {
    for (const int number : {0, 1}) {
      auto sequences = model::Sequences(trace, number);
      sequences.erase(sequences.begin(), sequences.begin() + static_cast<std::ptrdiff_t>(skipped));
      rows_.push_back(model::Pack(sequences));
    }
  }
  Result<std::vector<tokens::PackedBatch>> NextWindow(int) override {
    std::vector<tokens::PackedBatch> window = {rows_[cursor_.index]};
    cursor_ = cursor_.index == 0 ? tokens::Cursor{cursor_.epoch, 1}
                                 : tokens::Cursor{cursor_.epoch + 1, 0};
    return window;
  }
  uint64_t MicroBatchesPerEpoch() const override { return 2; }
  tokens::Cursor cursor() const override { return cursor_; }
  Status Seek(const tokens::Cursor& cursor) override {
    cursor_ = cursor;
    return OkStatus();
  }
  uint64_t fingerprint() const override { return 0; }

 private:
  std::vector<tokens::PackedBatch> rows_;
  tokens::Cursor cursor_;
};

struct StepBounds {
  double loss, norm;     // relative tolerances of the losses and gradient norms
  double learning_rate;  // the trace's peak
};

// Which steps a trace has.
struct StepPlan {
  size_t steps = 10;
  size_t skipped_segments = 0;  // of each row, at its beginning
};

// Trains on the trace's two rows in turn and compares each with PREFIXstep.*; the
// parameters that come out.
inline std::vector<float> ExpectSteps(model::Engine& engine, kernels::DType dtype,
                                      const SafetensorsFile& trace, const std::string& prefix,
                                      const model::Adapter& adapter, const StepBounds& bounds,
                                      const StepPlan& plan = {}) {
  TwoRows source(trace, plan.skipped_segments);
  TrainState state =
      TrainState::Start({adapter.parameters().begin(), adapter.parameters().end()}, 0);
  LoopConfig config;
  config.schedule = {.type = SchedulerType::kLinear,
                     .learning_rate = bounds.learning_rate,
                     .warmup_steps = 2,
                     .total_steps = static_cast<int64_t>(plan.steps)};
  auto loop = Must(TrainLoop::Create(
      engine, source, kernels::TableFor(kernels::Backend::kCpu, dtype), 1, config, state));
  const auto losses = Floats(trace, prefix + "step.loss");
  const auto norms = Floats(trace, prefix + "step.grad_norm");
  const auto rates = Floats(trace, "step.learning_rate");
  EXPECT_EQ(losses.size(), plan.steps);
  double worst_loss = 0, worst_norm = 0;
  for (size_t i = 0; i < losses.size(); ++i) {
    const auto step = loop.Step();
    if (!step) {
      ADD_FAILURE() << step.error().ToString();
      break;
    }
    const double loss = static_cast<double>(losses[i]), norm = static_cast<double>(norms[i]);
    worst_loss = std::max(worst_loss, std::abs(step->loss - loss) / loss);
    worst_norm = std::max(worst_norm, std::abs(step->grad_norm - norm) / norm);
    EXPECT_NEAR(step->loss, loss, bounds.loss * loss) << "step " << i;
    EXPECT_NEAR(step->grad_norm, norm, bounds.norm * norm) << "step " << i;
    EXPECT_FLOAT_EQ(static_cast<float>(step->learning_rate), rates[i]) << "step " << i;
  }
  testing::Test::RecordProperty("worst_loss", fmt::format("{:.2e}", worst_loss));
  testing::Test::RecordProperty("worst_norm", fmt::format("{:.2e}", worst_norm));
  return state.parameters;
}

}  // namespace tidegate::train
