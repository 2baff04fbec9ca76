// Rotary position embedding in rotate-half pairing (i, i + d/2), in place.
#pragma once

#include "kernels/types.h"

namespace tidegate::kernels {

// x[m, heads, head_dim] is rotated by the angle of its row; inverse rotates back (the gradient).
// cos, sin: [m, head_dim/2] float for every backend (attention scaling already in them); the bf16
// kernel rounds them to bf16 first, as transformers does.
struct RopeArgs {
  int64_t m, heads, head_dim;
  const float* cos;
  const float* sin;
  bool inverse;
  void* x;
};

}  // namespace tidegate::kernels
