// SwiGLU: act = silu(gate) · up.
#pragma once

#include "kernels/types.h"

namespace tidegate::kernels {

struct SwigluForwardArgs {
  int64_t count;  // elements
  const void* gate;
  const void* up;
  void* act;
};

// dgate and dup from dact; act is computed again into `act` in the same pass when it is not null.
// dgate may alias dact.
struct SwigluBackwardArgs {
  int64_t count;
  const void* gate;
  const void* up;
  const void* dact;
  void* dgate;
  void* dup;
  void* act;
};

}  // namespace tidegate::kernels
