#include <algorithm>

#include "kernels/internal/lora_gradients.h"
#include "kernels/internal/matmul.h"
#include "kernels/internal/ops.h"
#include "kernels/internal/simd_ops.h"

namespace tidegate::kernels {
namespace {

// Up to this many rows oneDNN doesn't split the sum over threads, so gradients have the same bits
// for any number of them.
constexpr int64_t kGradientRows = 512;

template <DType T>
void Forward(const Context& context, const SimdOps& simd, const LoraForwardArgs& args) {
  if (args.m > 0 && args.m <= kGemvMaxRows) {
    simd.gemv(context, {args.m, args.r, args.k, args.x, args.a, nullptr, args.u});
    simd.gemv(context, {args.m, args.n, args.r, args.u, args.b, args.y, args.y});
    return;
  }
  Matmul(context, {T, T, args.m, args.r, args.k, false, true, MatmulPost::kNone}, args.x, args.a,
         args.u);
  Matmul(context, {T, T, args.m, args.n, args.r, false, true, MatmulPost::kSum}, args.u, args.b,
         args.y);
}

// out[r, columns] += thinᵀ wide over chunks of rows.
void AddGradient(const Context& context, DType dtype, int64_t m, int64_t r, int64_t columns,
                 const void* thin, const void* wide, void* out) {
  const char* left = static_cast<const char*>(thin);
  const char* right = static_cast<const char*>(wide);
  for (int64_t row = 0; row < m; row += kGradientRows) {
    const int64_t rows = std::min(kGradientRows, m - row);
    Matmul(context, {dtype, DType::kF32, r, columns, rows, true, false, MatmulPost::kSum},
           left + static_cast<size_t>(row * r) * SizeOf(dtype),
           right + static_cast<size_t>(row * columns) * SizeOf(dtype), out);
  }
}

template <DType T>
void Backward(const Context& context, const LoraBackwardArgs& args) {
  const Workspace::Scope scope(*context.workspace);
  void* v = context.workspace->Allocate(static_cast<size_t>(args.m * args.r) * SizeOf(T));
  Matmul(context, {T, T, args.m, args.r, args.n, false, false, MatmulPost::kNone}, args.dy, args.b,
         v);
  AddLoraGradients(context, T, args, v);
  if (args.dx == nullptr) return;
  const MatmulPost post = args.accumulate_dx ? MatmulPost::kSum : MatmulPost::kNone;
  Matmul(context, {T, T, args.m, args.k, args.r, false, false, post}, v, args.a, args.dx);
}

}  // namespace

void AddLoraGradients(const Context& context, DType dtype, const LoraBackwardArgs& args,
                      const void* v) {
  AddGradient(context, dtype, args.m, args.r, args.n, args.u, args.dy, args.db_t);
  AddGradient(context, dtype, args.m, args.r, args.k, v, args.x, args.da);
}

void LoraForwardCpuF32(const Context& context, const LoraForwardArgs& args) {
  Forward<DType::kF32>(context, SimdF32(), args);
}
void LoraForwardCpuBF16(const Context& context, const LoraForwardArgs& args) {
  Forward<DType::kBF16>(context, kSimdAvx512BF16, args);
}

void LoraBackwardCpuF32(const Context& context, const LoraBackwardArgs& args) {
  Backward<DType::kF32>(context, args);
}
void LoraBackwardCpuBF16(const Context& context, const LoraBackwardArgs& args) {
  Backward<DType::kBF16>(context, args);
}

}  // namespace tidegate::kernels
