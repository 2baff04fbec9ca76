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
  const void* w;               // [n,k] activation type, or bf16 for gemv_bf16
  const void* residual;        // [m,n] output type or null
  void* y;                     // [m,n] output type
  const void* bias = nullptr;  // [n] output type
};

// out = rows [row_begin, row_end) of weights in the activation type, which they are not held in:
// quantized, or bf16 (its view.codes) where activations are float. row_begin must be a
// multiple of kUnpackRows, so that it is the beginning of a block of scales whatever k is.
inline constexpr int64_t kUnpackRows = kQuantBlock;
struct DequantizeArgs {
  WeightFormat format;
  int64_t k, row_begin, row_end;
  QuantizedView view;
  void* out;  // [row_end - row_begin, k]
};

// out[n] += Σ dy[i] over rows, or Σ dy[i] · round(x[i] · rstd[i]) where there is an x.
struct ColumnSumsArgs {
  int64_t m, n;
  const void* dy;    // [m,n]
  const void* x;     // [m,n] or null
  const void* rstd;  // [m] float
  void* out;         // [n] float
};

// out[ids[i]] += factor · weights[i] · x[i] for each row in order.
struct ScatterRowsArgs {
  int64_t m, k;
  const int32_t* ids;
  const void* x;         // [m,k]
  const float* weights;  // [m], null means 1
  float factor;
  void* out;  // [*,k] float
};

// p = weight · exp(logit − lse) for a tile of words.
struct HeadSlopesArgs {
  int64_t rows, columns;
  const float* logits;   // [rows, columns]
  const float* lse;      // [rows]
  const float* weights;  // [rows], null means 1
  void* p;               // [rows, columns] activation type
};

struct SimdOps {
  void (*gemv)(const Context&, const GemvArgs&);         // activation type out
  void (*gemv_logits)(const Context&, const GemvArgs&);  // float out
  void (*gemv_bf16)(const Context&, const GemvArgs&);    // of bf16 weights, activation type out
  void (*dequantize)(const Context&, const DequantizeArgs&);
  void (*rmsnorm_forward)(const Context&, const RmsNormForwardArgs&);
  void (*rmsnorm_backward)(const Context&, const RmsNormBackwardArgs&);
  void (*rope)(const Context&, const RopeArgs&);
  void (*swiglu_forward)(const Context&, const SwigluForwardArgs&);
  void (*swiglu_backward)(const Context&, const SwigluBackwardArgs&);
  void (*geglu_forward)(const Context&, const GegluForwardArgs&);
  void (*geglu_backward)(const Context&, const GegluBackwardArgs&);
  void (*column_sums)(const Context&, const ColumnSumsArgs&);
  void (*scatter_rows)(const Context&, const ScatterRowsArgs&);
  void (*head_slopes)(const Context&, const HeadSlopesArgs&);
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
