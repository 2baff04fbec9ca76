// The training loop: windows of micro-batches in, parameters out.
//
// One step is one optimizer update over a window of gradient_accumulation_steps micro-batches. The
// loss of a window is Σ cross-entropy over all its targets / their count, whatever the split into
// micro-batches; a window without a target changes neither parameters nor moments (it does count
// in the schedule, so that every run ends). The schedule, the moments and the data cursor live in
// the TrainState, so a federated site calls RunSteps(local_steps) each round and replaces the
// parameters in between. Not thread-safe.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "base/status.h"
#include "model/transformer.h"
#include "tokens/batch_source.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/state.h"

namespace tidegate::train {

struct LoopConfig {
  ScheduleConfig schedule;
  AdamWConfig adamw;
  int gradient_accumulation_steps = 1;
};

struct StepResult {
  int64_t step = 0;   // from 1
  int64_t epoch = 0;  // of the window's first micro-batch, from 0
  double loss = 0;    // mean over the window's targets, natural log; 0 if skipped
  double learning_rate = 0;
  double grad_norm = 0;  // before clipping
  int64_t tokens = 0;    // of the window
  int64_t targets = 0;
  double seconds = 0;  // wall time
  bool skipped = false;
};

class TrainLoop {
 public:
  // All references must outlive the loop. Puts the source at the state's cursor and the state's
  // parameters into the engine. Errors name the option out of range, or the sizes that differ.
  static Result<TrainLoop> Create(model::Engine& engine, tokens::BatchSource& source,
                                  const kernels::KernelTable* kernels, int threads,
                                  const LoopConfig& config, TrainState& state);

  // One window. After an error the state is that of the last good step: kFailedPrecondition when
  // loss or gradients are not finite (the message names the step and the remedy).
  Result<StepResult> Step();

  // Up to `n` steps; `on_step` may be empty, and ends the run early by returning false.
  Status RunSteps(int64_t n, const std::function<bool(const StepResult&)>& on_step);

  // Replaces the parameters (a round's new adapter); moments, schedule and cursor stay.
  Status SetParameters(std::span<const float> parameters);

  // Divides the parameters into parts that are trained or frozen as a whole, and says which are
  // trained from now on; the others keep parameters, moments and their count of updates. The clip
  // is by the norm over what is trained. Before: one part, trained. kInvalidArgument for ranges
  // that are out of order or outside, or a state with other parts.
  Status SetParts(std::vector<Ranges> parts, std::vector<size_t> trained);

  // FedProx: adds mu · (parameters − anchor) to the gradient over `ranges`. 0 switches it off.
  Status SetProximal(double mu, std::vector<float> anchor, Ranges ranges);

  const TrainState& state() const { return state_; }
  TrainState& mutable_state() { return state_; }
  const LoopConfig& config() const { return config_; }

 private:
  TrainLoop(model::Engine& engine, tokens::BatchSource& source, Optimizer optimizer,
            const LoopConfig& config, TrainState& state);
  Result<model::LossSum> Accumulate(const std::vector<tokens::PackedBatch>& window,
                                    StepResult* result);
  Status Apply(const model::LossSum& sum, StepResult* result);
  void AddProximal();
  Status CheckRanges(const Ranges& ranges) const;

  model::Engine& engine_;
  tokens::BatchSource& source_;
  Optimizer optimizer_;
  LoopConfig config_;
  TrainState& state_;
  std::vector<Ranges> parts_;    // one, of all parameters, unless SetParts said others
  std::vector<size_t> trained_;  // of the parts
  Ranges trained_ranges_;        // theirs, one after another
  std::vector<float> gradients_;
  std::vector<float> anchor_;
  Ranges proximal_;
  double proximal_mu_ = 0;
};

// Token-weighted mean negative log-likelihood over one pass of `source` from its start.
struct EvalResult {
  double nll = 0;  // natural log, per target
  int64_t targets = 0;
  int64_t tokens = 0;
};
Result<EvalResult> EvaluateAll(model::Engine& engine, tokens::BatchSource& source,
                               const std::function<bool()>& should_stop);

}  // namespace tidegate::train
