// Gradients of a base's weights: products by oneDNN over chunks of rows, sums by vector loops.
#include <algorithm>

#include "kernels/internal/matmul.h"
#include "kernels/internal/ops.h"
#include "kernels/internal/simd_ops.h"
#include "kernels/internal/weights.h"

namespace tidegate::kernels {
namespace {

// Up to this many rows oneDNN doesn't split the sum over threads, so gradients have the same bits
// for any number of them.
constexpr int64_t kRows = 512;
// Words of a tile of the head: its scratch stays in the caches.
constexpr int64_t kColumns = 512;

const void* RowsFrom(const void* data, int64_t row, int64_t columns, DType type) {
  return static_cast<const char*>(data) + static_cast<size_t>(row * columns) * SizeOf(type);
}

template <DType T>
void LinearGradient(const Context& context, const SimdOps& simd, const LinearGradientArgs& args) {
  for (int64_t row = 0; row < args.m; row += kRows) {
    const int64_t rows = std::min(kRows, args.m - row);
    Matmul(context, {T, DType::kF32, args.n, args.k, rows, true, false, MatmulPost::kSum},
           RowsFrom(args.dy, row, args.n, T), RowsFrom(args.x, row, args.k, T), args.dw);
  }
  if (args.db != nullptr) {
    simd.column_sums(context, {args.m, args.n, args.dy, nullptr, nullptr, args.db});
  }
}

template <DType T>
void HeadGradient(const Context& context, const SimdOps& simd, const HeadGradientArgs& args) {
  const int64_t vocab = args.w->n(), k = args.w->k();
  const StoredWeights& stored = Stored(args.w);
  for (int64_t row = 0; row < args.m; row += kRows) {
    const int64_t rows = std::min(kRows, args.m - row);
    const void* h = RowsFrom(args.h, row, k, T);
    for (int64_t column = 0; column < vocab; column += kColumns) {
      const Workspace::Scope scope(*context.workspace);
      const int64_t columns = std::min(kColumns, vocab - column);
      const size_t count = static_cast<size_t>(rows * columns);
      float* logits = context.workspace->Array<float>(count);
      void* p = context.workspace->Allocate(count * SizeOf(T));
      const void* w = RowsFrom(stored.data(), column, k, T);
      if (!stored.LiesAs(T)) {
        void* out = context.workspace->Allocate(static_cast<size_t>(columns * k) * SizeOf(T));
        simd.dequantize(context,
                        {stored.format(), k, column, column + columns, stored.view(), out});
        w = out;
      }
      Matmul(context, {T, DType::kF32, rows, columns, k, false, true, MatmulPost::kNone}, h, w,
             logits);
      simd.head_slopes(context, {rows, columns, logits, static_cast<const float*>(args.lse) + row,
                                 args.weights == nullptr ? nullptr : args.weights + row, p});
      Matmul(context, {T, DType::kF32, columns, k, rows, true, false, MatmulPost::kSum}, p, h,
             static_cast<float*>(args.dw) + column * k);
    }
  }
  // Apart, in floats: near -1 a slope in bf16 would lose the probability beside it.
  simd.scatter_rows(context, {args.m, k, args.targets, args.h, args.weights, -1.0f, args.dw});
}

}  // namespace

void LinearGradientCpuF32(const Context& context, const LinearGradientArgs& args) {
  LinearGradient<DType::kF32>(context, SimdF32(), args);
}
void LinearGradientCpuBF16(const Context& context, const LinearGradientArgs& args) {
  LinearGradient<DType::kBF16>(context, kSimdAvx512BF16, args);
}

void RmsNormGradientCpuF32(const Context& context, const RmsNormGradientArgs& args) {
  SimdF32().column_sums(context, {args.m, args.n, args.dy, args.x, args.rstd, args.dw});
}
void RmsNormGradientCpuBF16(const Context& context, const RmsNormGradientArgs& args) {
  kSimdAvx512BF16.column_sums(context, {args.m, args.n, args.dy, args.x, args.rstd, args.dw});
}

void EmbeddingGradientCpuF32(const Context& context, const EmbeddingGradientArgs& args) {
  SimdF32().scatter_rows(context, {args.m, args.k, args.ids, args.dx, nullptr, 1.0f, args.dtable});
}
void EmbeddingGradientCpuBF16(const Context& context, const EmbeddingGradientArgs& args) {
  kSimdAvx512BF16.scatter_rows(context,
                               {args.m, args.k, args.ids, args.dx, nullptr, 1.0f, args.dtable});
}

void HeadGradientCpuF32(const Context& context, const HeadGradientArgs& args) {
  HeadGradient<DType::kF32>(context, SimdF32(), args);
}
void HeadGradientCpuBF16(const Context& context, const HeadGradientArgs& args) {
  HeadGradient<DType::kBF16>(context, kSimdAvx512BF16, args);
}

}  // namespace tidegate::kernels
