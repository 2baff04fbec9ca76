// The low-rank branch beside a linear layer: u = x Aᵀ, y += u Bᵀ.
//
// A is [r,k], B is [n,r] and already multiplied by the LoRA scale s, so that no kernel knows s: the
// caller multiplies dB by s once a window. A and B are compute copies in the activation type.
// Gradients accumulate in GradType over fixed chunks of at most 512 rows, in row order: the same
// bits for any thread count.
#pragma once

#include "kernels/types.h"

namespace tidegate::kernels {

struct LoraForwardArgs {
  int64_t m, n, k, r;
  const void* x;  // [m,k] (after dropout, if any)
  const void* a;  // [r,k]
  const void* b;  // [n,r]
  void* u;        // [m,r] out, kept for the backward pass
  void* y;        // [m,n] +=
};

struct LoraBackwardArgs {
  int64_t m, n, k, r;
  const void* x;       // [m,k] as in forward
  const void* u;       // [m,r] as forward wrote it
  const void* dy;      // [m,n]
  const void* a;       // [r,k]
  const void* b;       // [n,r]
  void* da;            // [r,k] GradType, +=
  void* db_t;          // [r,n] GradType, += : B's gradient transposed
  bool accumulate_dx;  // dx += or =
  void* dx;            // [m,k], null when no gradient to x is wanted
};

}  // namespace tidegate::kernels
