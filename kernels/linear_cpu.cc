#include <cstring>

#include "kernels/internal/matmul.h"
#include "kernels/internal/ops.h"
#include "kernels/internal/simd_ops.h"
#include "kernels/internal/threads.h"
#include "kernels/internal/weights.h"

namespace tidegate::kernels {
namespace {

template <DType T>
void Forward(const Context& context, const SimdOps& simd, const LinearForwardArgs& args) {
  const PlainWeights& w = Plain(args.w);
  if (args.m <= kGemvMaxRows) {
    simd.gemv(context, {args.m, w.n(), w.k(), args.x, w.data(), args.residual, args.y, args.bias});
    return;
  }
  // A residual that y already holds needs no second matrix.
  const MatmulPost post = args.residual == nullptr  ? MatmulPost::kNone
                          : args.residual == args.y ? MatmulPost::kSum
                                                    : MatmulPost::kResidual;
  const bool biased = args.bias != nullptr;
  Matmul(context, {T, T, args.m, w.n(), w.k(), false, true, post, biased}, args.x, w.data(), args.y,
         args.residual, args.bias);
}

template <DType T>
void Backward(const Context& context, const LinearBackwardArgs& args) {
  const PlainWeights& w = Plain(args.w);
  const MatmulPost post = args.accumulate ? MatmulPost::kSum : MatmulPost::kNone;
  Matmul(context, {T, T, args.m, w.k(), w.n(), false, false, post}, args.dy, w.data(), args.dx);
}

template <DType T>
void LogitsOf(const Context& context, const SimdOps& simd, const LogitsArgs& args) {
  const PlainWeights& w = Plain(args.w);
  if (args.m <= kGemvMaxRows) {
    simd.gemv_logits(context, {args.m, w.n(), w.k(), args.h, w.data(), nullptr, args.logits});
    return;
  }
  Matmul(context, {T, DType::kF32, args.m, w.n(), w.k(), false, true, MatmulPost::kNone}, args.h,
         w.data(), args.logits);
}

void CopyRows(const Context& context, const EmbeddingArgs& args, size_t row_bytes) {
  const char* table = static_cast<const char*>(args.table.data);
  char* out = static_cast<char*>(args.out);
  const ScopedThreads threads(context.threads);
#pragma omp parallel for schedule(static) if (args.m >= 64)
  for (int64_t i = 0; i < args.m; ++i) {
    std::memcpy(out + static_cast<size_t>(i) * row_bytes,
                table + static_cast<size_t>(args.ids[i]) * row_bytes, row_bytes);
  }
}

std::unique_ptr<PreparedWeights> Prepare(const WeightSource& source, WeightFormat taken) {
  if (source.format != taken) return nullptr;
  return std::make_unique<PlainWeights>(source);
}

}  // namespace

std::unique_ptr<PreparedWeights> PrepareWeightsCpuF32(const WeightSource& source) {
  return Prepare(source, WeightFormat::kF32);
}
std::unique_ptr<PreparedWeights> PrepareWeightsCpuBF16(const WeightSource& source) {
  return Prepare(source, WeightFormat::kBF16);
}

void LinearForwardCpuF32(const Context& context, const LinearForwardArgs& args) {
  Forward<DType::kF32>(context, SimdF32(), args);
}
void LinearForwardCpuBF16(const Context& context, const LinearForwardArgs& args) {
  Forward<DType::kBF16>(context, kSimdAvx512BF16, args);
}

void LinearBackwardCpuF32(const Context& context, const LinearBackwardArgs& args) {
  Backward<DType::kF32>(context, args);
}
void LinearBackwardCpuBF16(const Context& context, const LinearBackwardArgs& args) {
  Backward<DType::kBF16>(context, args);
}

void LogitsCpuF32(const Context& context, const LogitsArgs& args) {
  LogitsOf<DType::kF32>(context, SimdF32(), args);
}
void LogitsCpuBF16(const Context& context, const LogitsArgs& args) {
  LogitsOf<DType::kBF16>(context, kSimdAvx512BF16, args);
}

void EmbeddingCpuF32(const Context& context, const EmbeddingArgs& args) {
  CopyRows(context, args, static_cast<size_t>(args.table.k) * sizeof(float));
}
void EmbeddingCpuBF16(const Context& context, const EmbeddingArgs& args) {
  CopyRows(context, args, static_cast<size_t>(args.table.k) * sizeof(uint16_t));
}

}  // namespace tidegate::kernels
