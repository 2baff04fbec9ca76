// AdamW with decoupled weight decay in PyTorch's order, and the sums that clipping needs. All
// arrays are GradType of the backend (float masters, float moments).
#pragma once

#include "kernels/types.h"

namespace tidegate::kernels {

// g' = g · grad_scale; p -= lr·wd·p; m, v updated; p -= lr · m̂ / (sqrt(v̂) + eps), bias-corrected
// with `step` (from 1).
struct AdamWArgs {
  int64_t count;
  void* p;
  const void* g;
  void* m;
  void* v;
  double grad_scale, lr, beta1, beta2, eps, weight_decay;
  int64_t step;
};

// Sum of squares in double, partial sums over fixed blocks added in order.
struct SumSquaresArgs {
  int64_t count;
  const void* x;
  double* out;
};

}  // namespace tidegate::kernels
