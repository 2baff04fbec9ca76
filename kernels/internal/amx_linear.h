// Linear layers in bf16 by AMX, with their low-rank branch in the same sums: linear_cpu.cc calls
// this where the CPU and the shape allow it.
#pragma once

#include "kernels/types.h"

namespace tidegate::kernels {

// y[m,n] = x[m,k] op(w) + u[m,r] op(b) + bias + residual with u = x op(a), rounded to bf16 once (u
// as well, before it is used). op is the transpose (w [n,k], b [n,r], a [r,k]) when `transposed`,
// or nothing (w [k,n], b [r,n], a [k,r]). r = 0: no low-rank branch.
struct AmxLinearArgs {
  int64_t m, n, k, r;
  bool transposed;
  const uint16_t* x;
  const uint16_t* w;
  const uint16_t* a;
  const uint16_t* b;
  const uint16_t* bias;      // [n] or null
  const uint16_t* residual;  // [m,n] or null, may be y
  uint16_t* u;               // [m,r] out
  uint16_t* y;
};

// Whether this CPU has AMX and the shape is worth it.
bool AmxLinearFits(int64_t m, int64_t n, int64_t k);

// The same bits for any context.threads, and for a row whatever m is.
void AmxLinear(const Context& context, const AmxLinearArgs& args);

}  // namespace tidegate::kernels
