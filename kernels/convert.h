// Parameter masters (GradType) to compute copies (activation type), times a factor; round to
// nearest even, NaN kept quiet.
#pragma once

#include "kernels/types.h"

namespace tidegate::kernels {

struct ConvertArgs {
  int64_t count;
  const void* in;  // GradType
  double scale;
  void* out;  // activation type
};

}  // namespace tidegate::kernels
