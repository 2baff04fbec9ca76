// Loops over vectors of floats, compiled once for each instruction set from the same source
// (simd_body.h): a set of function pointers per (instruction set, activation type).
#pragma once

#include "kernels/quantize.h"
#include "kernels/table.h"

namespace tidegate::kernels {

// y[m,n] = x[m,k] Wᵀ + bias + residual, bound by reading W once: faster than oneDNN up to some
// eight rows in bf16, twice that in f32. A row's bits are the same for any m.
inline constexpr int64_t kGemvMaxRows = 8;
struct GemvArgs {
  int64_t m, n, k;
  const void* x;               // [m,k] activation type
  const void* w;               // [n,k] activation type
  const void* residual;        // [m,n] output type or null
  void* y;                     // [m,n] output type
  const void* bias = nullptr;  // [n] output type
};

// out = rows [row_begin, row_end) of quantized weights in the activation type. row_begin must be a
// multiple of kUnpackRows, so that it is the beginning of a block of scales whatever k is.
inline constexpr int64_t kUnpackRows = kQuantBlock;
struct DequantizeArgs {
  WeightFormat format;
  int64_t k, row_begin, row_end;
  QuantizedView view;
  void* out;  // [row_end - row_begin, k]
};

struct SimdOps {
  void (*gemv)(const Context&, const GemvArgs&);         // activation type out
  void (*gemv_logits)(const Context&, const GemvArgs&);  // float out
  void (*dequantize)(const Context&, const DequantizeArgs&);
  void (*rmsnorm_forward)(const Context&, const RmsNormForwardArgs&);
  void (*rmsnorm_backward)(const Context&, const RmsNormBackwardArgs&);
  void (*rope)(const Context&, const RopeArgs&);
  void (*swiglu_forward)(const Context&, const SwigluForwardArgs&);
  void (*swiglu_backward)(const Context&, const SwigluBackwardArgs&);
  void (*adamw)(const Context&, const AdamWArgs&);
  void (*sum_squares)(const Context&, const SumSquaresArgs&);
  void (*dropout_forward)(const Context&, const DropoutForwardArgs&);
  void (*dropout_backward)(const Context&, const DropoutBackwardArgs&);
  void (*convert)(const Context&, const ConvertArgs&);
};

extern const SimdOps kSimdSse4F32;
extern const SimdOps kSimdAvx2F32;
extern const SimdOps kSimdAvx512F32;
extern const SimdOps kSimdAvx512BF16;

// The float set for this machine.
const SimdOps& SimdF32();

}  // namespace tidegate::kernels
