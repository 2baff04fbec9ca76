// Ten optimizer steps against those of a golden trace (tests/golden/README.md).
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/model/golden_model.h"
#include "train/loop.h"

namespace tidegate::train {

using tensor::SafetensorsFile;

using model::Floats;
using model::Must;

// Rows 0, 1, 0, 1, ...
class TwoRows final : public tokens::BatchSource {
 public:
  explicit TwoRows(const SafetensorsFile& trace)
      : rows_{model::Pack(model::Sequences(trace, 0)), model::Pack(model::Sequences(trace, 1))} {}
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
  double loss, norm;     // relative tolerances of the ten losses and gradient norms
  double learning_rate;  // the trace's peak
};

// Trains on the trace's two rows in turn and compares each step with PREFIXstep.*; the parameters
// that come out.
inline std::vector<float> ExpectTenSteps(model::Engine& engine, kernels::DType dtype,
                                         const SafetensorsFile& trace, const std::string& prefix,
                                         const model::Adapter& adapter, const StepBounds& bounds) {
  TwoRows source(trace);
  TrainState state =
      TrainState::Start({adapter.parameters().begin(), adapter.parameters().end()}, 0);
  LoopConfig config;
  config.schedule = {.type = SchedulerType::kLinear,
                     .learning_rate = bounds.learning_rate,
                     .warmup_steps = 2,
                     .total_steps = 10};
  auto loop = Must(TrainLoop::Create(
      engine, source, kernels::TableFor(kernels::Backend::kCpu, dtype), 1, config, state));
  const auto losses = Floats(trace, prefix + "step.loss");
  const auto norms = Floats(trace, prefix + "step.grad_norm");
  const auto rates = Floats(trace, "step.learning_rate");
  EXPECT_EQ(losses.size(), 10u);
  for (size_t i = 0; i < losses.size(); ++i) {
    const auto step = loop.Step();
    if (!step) {
      ADD_FAILURE() << step.error().ToString();
      break;
    }
    const double loss = static_cast<double>(losses[i]), norm = static_cast<double>(norms[i]);
    EXPECT_NEAR(step->loss, loss, bounds.loss * loss) << "step " << i;
    EXPECT_NEAR(step->grad_norm, norm, bounds.norm * norm) << "step " << i;
    EXPECT_FLOAT_EQ(static_cast<float>(step->learning_rate), rates[i]) << "step " << i;
  }
  return state.parameters;
}

}  // namespace tidegate::train
