// RMSNorm: y = (x · rstd) · w with rstd = 1/sqrt(mean(x²) + eps). As transformers does it: the
// normalised row is computed in float, rounded to the activation type, then multiplied by w.
#pragma once

#include "kernels/types.h"

namespace tidegate::kernels {

struct RmsNormForwardArgs {
  int64_t m, n;
  const void* x;  // [m,n]
  const void* w;  // [n]
  double eps;
  void* y;     // [m,n], may be x
  void* rstd;  // [m] GradType out, null when not wanted
};

struct RmsNormBackwardArgs {
  int64_t m, n;
  const void* x;     // [m,n]
  const void* w;     // [n]
  const void* rstd;  // [m] GradType
  const void* dy;    // [m,n]
  bool accumulate;   // dx += or =
  void* dx;          // [m,n]; may be dy when it is not added to
};

}  // namespace tidegate::kernels
