// Inverted dropout whose mask is a pure function of (seed, step, stream, index): Philox4x32-10 with
// counter {index/4 low, index/4 high, step, stream} and key seed; element i uses word i%4 and is
// kept when word >= p·2^32. The same under recompute, any thread count and on every backend.
#pragma once

#include "kernels/types.h"

namespace tidegate::kernels {

struct DropoutKey {
  uint64_t seed;
  uint32_t step;    // optimizer step · 2^k + micro-batch, as the caller numbers them
  uint32_t stream;  // layer and tensor
};

// y = x ∘ mask / (1 − p)
struct DropoutForwardArgs {
  int64_t count;
  double p;
  DropoutKey key;
  const void* x;
  void* y;
};

// dx += dy ∘ mask / (1 − p)
struct DropoutBackwardArgs {
  int64_t count;
  double p;
  DropoutKey key;
  const void* dy;
  void* dx;
};

}  // namespace tidegate::kernels
