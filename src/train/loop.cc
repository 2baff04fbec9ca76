#include "train/loop.h"

#include <chrono>
#include <cmath>

#include "base/log.h"

namespace tidegate::train {

TrainLoop::TrainLoop(model::Engine& engine, tokens::BatchSource& source, Optimizer optimizer,
                     const LoopConfig& config, TrainState& state)
    : engine_(engine),
      source_(source),
      optimizer_(std::move(optimizer)),
      config_(config),
      state_(state),
      parts_{{{0, static_cast<int64_t>(state.parameters.size())}}},
      trained_{0},
      trained_ranges_(parts_[0]),
      gradients_(state.parameters.size()) {}

Result<TrainLoop> TrainLoop::Create(model::Engine& engine, tokens::BatchSource& source,
                                    const kernels::KernelTable* kernels, int threads,
                                    const LoopConfig& config, TrainState& state) {
  TG_RETURN_IF_ERROR(CheckSchedule(config.schedule));
  if (config.gradient_accumulation_steps < 1) {
    return InvalidArgument("gradient_accumulation_steps {} must be 1 or more",
                           config.gradient_accumulation_steps);
  }
  const size_t count = state.parameters.size();
  if (state.moments.m.size() != count || state.moments.v.size() != count) {
    return InvalidArgument("the state has {} parameters but moments of {} and {}", count,
                           state.moments.m.size(), state.moments.v.size());
  }
  TG_ASSIGN_OR_RETURN(Optimizer optimizer, Optimizer::Create(kernels, threads, config.adamw));
  TG_RETURN_IF_ERROR(source.Seek(state.cursor));
  engine.SetParameters(state.parameters);
  if (state.moments.updates.empty()) return InvalidArgument("the state has no count of updates");
  return TrainLoop(engine, source, std::move(optimizer), config, state);
}

Result<model::LossSum> TrainLoop::Accumulate(const std::vector<tokens::PackedBatch>& window,
                                             StepResult* result) {
  model::LossSum sum;
  uint32_t micro = state_.micro_steps;
  for (const tokens::PackedBatch& batch : window) {
    result->tokens += static_cast<int64_t>(batch.ids.size());
    // A batch without targets adds nothing, but its number is used up: the dropout of the batches
    // after it does not depend on what was masked.
    if (batch.num_targets > 0) {
      auto part = engine_.ForwardBackward(batch, state_.seed, micro);
      if (!part) {
        engine_.TakeGradients(0.0, gradients_);  // leaves the accumulators empty
        return Unexpected(part.error());
      }
      sum.loss += part->loss;
      sum.targets += part->targets;
    }
    ++micro;
  }
  return sum;
}

void TrainLoop::AddProximal() {
  if (proximal_mu_ == 0) return;
  const auto mu = static_cast<float>(proximal_mu_);
  for (const Range& range : proximal_) {
    for (auto i = static_cast<size_t>(range.begin); i < static_cast<size_t>(range.end); ++i) {
      gradients_[i] += mu * (state_.parameters[i] - anchor_[i]);
    }
  }
}

Status TrainLoop::Apply(const model::LossSum& sum, StepResult* result) {
  result->loss = sum.loss / static_cast<double>(sum.targets);
  engine_.TakeGradients(1.0 / static_cast<double>(sum.targets), gradients_);
  AddProximal();
  result->grad_norm = optimizer_.GradNorm(gradients_, trained_ranges_);
  if (!std::isfinite(result->loss) || !std::isfinite(result->grad_norm)) {
    return FailedPrecondition(
        "step {}: loss {} and gradient norm {} are not finite, nothing was changed; lower the "
        "learning rate (now {}) or train with --dtype f32",
        result->step, result->loss, result->grad_norm, result->learning_rate);
  }
  for (const size_t part : trained_) {
    optimizer_.Update(state_.parameters, gradients_, parts_[part], result->grad_norm,
                      result->learning_rate, state_.moments, part);
  }
  engine_.SetParameters(state_.parameters);
  return OkStatus();
}

Result<StepResult> TrainLoop::Step() {
  const auto begin = std::chrono::steady_clock::now();
  StepResult result;
  result.step = state_.step + 1;
  result.epoch = state_.cursor.epoch;
  result.learning_rate = LearningRate(config_.schedule, state_.step);
  TG_ASSIGN_OR_RETURN(const std::vector<tokens::PackedBatch> window,
                      source_.NextWindow(config_.gradient_accumulation_steps));
  Result<model::LossSum> sum = Accumulate(window, &result);
  Status status = sum ? OkStatus() : sum.error();
  if (sum) {
    result.targets = sum->targets;
    result.skipped = sum->targets == 0;
    if (!result.skipped) status = Apply(*sum, &result);
  }
  if (!status.ok()) {
    TG_RETURN_IF_ERROR(source_.Seek(state_.cursor));
    return Unexpected(status);
  }
  if (result.skipped) {
    ++state_.skipped_windows;
    LogWarning("window_without_target step={} skipped={}", result.step, state_.skipped_windows);
  }
  state_.step = result.step;
  state_.micro_steps += static_cast<uint32_t>(window.size());
  state_.cursor = source_.cursor();
  state_.tokens_seen += result.tokens;
  state_.targets_seen += result.targets;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

Status TrainLoop::RunSteps(int64_t n, const std::function<bool(const StepResult&)>& on_step) {
  for (int64_t i = 0; i < n; ++i) {
    TG_ASSIGN_OR_RETURN(const StepResult result, Step());
    if (on_step && !on_step(result)) break;
  }
  return OkStatus();
}

Status TrainLoop::SetParameters(std::span<const float> parameters) {
  if (parameters.size() != state_.parameters.size()) {
    return InvalidArgument("an adapter of {} parameters cannot replace one of {}",
                           parameters.size(), state_.parameters.size());
  }
  std::copy(parameters.begin(), parameters.end(), state_.parameters.begin());
  engine_.SetParameters(state_.parameters);
  return OkStatus();
}

Status TrainLoop::CheckRanges(const Ranges& ranges) const {
  int64_t end = 0;
  for (const Range& range : ranges) {
    if (range.begin < end || range.end < range.begin) {
      return InvalidArgument("ranges of parameters are out of order at {} … {}", range.begin,
                             range.end);
    }
    end = range.end;
  }
  if (end <= static_cast<int64_t>(state_.parameters.size())) return OkStatus();
  return InvalidArgument("a range of parameters ends at {} of {}", end, state_.parameters.size());
}

Status TrainLoop::SetParts(std::vector<Ranges> parts, std::vector<size_t> trained) {
  for (const Ranges& part : parts) TG_RETURN_IF_ERROR(CheckRanges(part));
  for (const size_t part : trained) {
    if (part >= parts.size()) return InvalidArgument("there is no part {} to train", part);
  }
  std::vector<int64_t>& updates = state_.moments.updates;
  if (updates == std::vector<int64_t>{0}) updates.assign(parts.size(), 0);
  if (updates.size() != parts.size()) {
    return InvalidArgument("the state has the updates of {} parts, the loop {}", updates.size(),
                           parts.size());
  }
  parts_ = std::move(parts);
  trained_ = std::move(trained);
  trained_ranges_.clear();
  for (const size_t part : trained_) {
    trained_ranges_.insert(trained_ranges_.end(), parts_[part].begin(), parts_[part].end());
  }
  return OkStatus();
}

Status TrainLoop::SetProximal(double mu, std::vector<float> anchor, Ranges ranges) {
  if (!(mu >= 0) || !std::isfinite(mu)) {
    return InvalidArgument("proximal term mu {} must be 0 or above", mu);
  }
  if (mu > 0 && anchor.size() != state_.parameters.size()) {
    return InvalidArgument("an anchor of {} parameters for {}", anchor.size(),
                           state_.parameters.size());
  }
  TG_RETURN_IF_ERROR(CheckRanges(ranges));
  proximal_mu_ = mu;
  anchor_ = mu > 0 ? std::move(anchor) : std::vector<float>();
  proximal_ = std::move(ranges);
  return OkStatus();
}

Result<EvalResult> EvaluateAll(model::Engine& engine, tokens::BatchSource& source,
                               const std::function<bool()>& should_stop) {
  TG_RETURN_IF_ERROR(source.Seek({}));
  EvalResult result;
  double loss = 0;
  for (uint64_t i = 0; i < source.MicroBatchesPerEpoch(); ++i) {
    if (should_stop && should_stop()) return Cancelled("the evaluation was stopped");
    TG_ASSIGN_OR_RETURN(const std::vector<tokens::PackedBatch> window, source.NextWindow(1));
    for (const tokens::PackedBatch& batch : window) {
      result.tokens += static_cast<int64_t>(batch.ids.size());
      if (batch.num_targets == 0) continue;
      TG_ASSIGN_OR_RETURN(const model::LossSum sum, engine.Evaluate(batch));
      loss += sum.loss;
      result.targets += sum.targets;
    }
  }
  if (result.targets == 0) {
    return FailedPrecondition("the evaluation data has no target; check its masks and max_length");
  }
  result.nll = loss / static_cast<double>(result.targets);
  return result;
}

}  // namespace tidegate::train
