// All vector loops for the instruction set of the file that includes this, as one set of pointers.
#pragma once

#include "kernels/internal/simd_dropout.h"
#include "kernels/internal/simd_elementwise.h"
#include "kernels/internal/simd_gemv.h"
#include "kernels/internal/simd_gradients.h"
#include "kernels/internal/simd_norm_rope.h"
#include "kernels/internal/simd_ops.h"
#include "kernels/internal/simd_unpack.h"

namespace tidegate::kernels {
namespace {

// T is float, or uint16_t for bf16.
template <typename T>
constexpr SimdOps MakeSimdOps() {
  return {
      .gemv = Gemv<T, T>,
      .gemv_logits = Gemv<T, float>,
      .gemv_bf16 = Gemv<T, T, uint16_t>,
      .dequantize = Dequantize<T>,
      .rmsnorm_forward = RmsNormForward<T>,
      .rmsnorm_backward = RmsNormBackward<T>,
      .rope = Rope<T>,
      .swiglu_forward = SwigluForward<T>,
      .swiglu_backward = SwigluBackward<T>,
      .geglu_forward = GegluForward<T>,
      .geglu_backward = GegluBackward<T>,
      .column_sums = ColumnSums<T>,
      .scatter_rows = ScatterRows<T>,
      .head_slopes = HeadSlopes<T>,
      .adamw = AdamW,
      .sum_squares = SumSquares,
      .dropout_forward = DropoutForward<T>,
      .dropout_backward = DropoutBackward<T>,
      .convert = Convert<T>,
  };
}

}  // namespace
}  // namespace tidegate::kernels
