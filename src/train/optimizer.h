// AdamW over the flat float buffers of an adapter, with clipping by the global norm, as PyTorch
// computes both. Masters, gradients and moments are float32 whatever the activations are.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/table.h"

namespace tidegate::train {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;   // decoupled; applies to lora_A and lora_B alike
  double max_grad_norm = 1.0;  // global L2; 0 switches clipping off
};

// Names the field that is out of range.
Status CheckAdamW(const AdamWConfig& config);

// Moments and the number of updates they have seen (bias correction): one for each part of the
// parameters that is trained or frozen as a whole, as PyTorch counts steps. Part of a checkpoint.
struct Moments {
  std::vector<float> m, v;
  std::vector<int64_t> updates = {0};
};

// Elements [begin, end) of the flat buffer.
struct Range {
  int64_t begin = 0, end = 0;
  bool operator==(const Range&) const = default;
};
using Ranges = std::vector<Range>;  // ascending, disjoint

class Optimizer {
 public:
  // `kernels` must have adamw and sum_squares and float masters (any table but kRef/kF64); one
  // without them is refused by name. `threads` as in kernels::Context.
  static Result<Optimizer> Create(const kernels::KernelTable* kernels, int threads,
                                  const AdamWConfig& config);

  const AdamWConfig& config() const { return config_; }

  // The L2 norm of the gradients over `ranges`, before clipping. The same bits for any thread
  // count.
  double GradNorm(std::span<const float> gradients, std::span<const Range> ranges);

  // One update of `parameters` and `moments` over `ranges`, those of part `part` of the moments:
  // gradients are scaled by min(1, max_grad_norm / (norm + 1e-6)). Elements outside of the ranges
  // keep their bits.
  void Update(std::span<float> parameters, std::span<const float> gradients,
              std::span<const Range> ranges, double grad_norm, double lr, Moments& moments,
              size_t part = 0);

 private:
  Optimizer(const kernels::KernelTable* kernels, int threads, const AdamWConfig& config);

  const kernels::KernelTable* kernels_;
  AdamWConfig config_;
  std::unique_ptr<kernels::Workspace> workspace_;
  kernels::Context context_;
};

}  // namespace tidegate::train
