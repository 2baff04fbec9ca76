#include <algorithm>
#include <cstring>

#include "kernels/internal/amx_linear.h"
#include "kernels/internal/cpu.h"
#include "kernels/internal/lora_gradients.h"
#include "kernels/internal/matmul.h"
#include "kernels/internal/ops.h"
#include "kernels/internal/simd_ops.h"
#include "kernels/internal/threads.h"
#include "kernels/internal/weights.h"

namespace tidegate::kernels {
namespace {

// The weights in the activation type: as they lie, or unpacked into the workspace for as long as
// the caller's scope. For many rows that costs little beside their product.
const void* Unpacked(const Context& context, const SimdOps& simd, const StoredWeights& w, DType t) {
  if (w.LiesAs(t)) return w.data();
  const size_t bytes = static_cast<size_t>(w.n() * w.k()) * SizeOf(t);
  void* out = context.workspace->Allocate(bytes);
  simd.dequantize(context, {w.format(), w.k(), 0, w.n(), w.view(), out});
  return out;
}

const uint16_t* Halves(const void* data) { return static_cast<const uint16_t*>(data); }

// One row of x: unpacks as many rows of the weights as stay in the cache until they are read.
constexpr int64_t kUnpackBytes = 1 << 20;

template <DType T>
void ForwardOneRow(const Context& context, const SimdOps& simd, const LinearForwardArgs& args) {
  const StoredWeights& w = Stored(args.w);
  const int64_t size = static_cast<int64_t>(SizeOf(T));
  const int64_t rows =
      std::max<int64_t>(kUnpackBytes / (w.k() * size) / kUnpackRows, 1) * kUnpackRows;
  const auto at = [size](const void* p, int64_t row) -> const void* {
    return p == nullptr ? nullptr : static_cast<const char*>(p) + row * size;
  };
  void* part =
      context.workspace->Allocate(static_cast<size_t>(std::min(rows, w.n()) * w.k() * size));
  for (int64_t row = 0; row < w.n(); row += rows) {
    const int64_t end = std::min(row + rows, w.n());
    simd.dequantize(context, {w.format(), w.k(), row, end, w.view(), part});
    simd.gemv(context, {1, end - row, w.k(), args.x, part, at(args.residual, row),
                        static_cast<char*>(args.y) + row * size, at(args.bias, row)});
  }
}

// In one pass with the low-rank branch.
void ForwardAmx(const Context& context, const LinearForwardArgs& args, const void* w) {
  const LoraForwardArgs lora = args.lora == nullptr ? LoraForwardArgs{} : *args.lora;
  AmxLinear(context, {args.m, args.w->n(), args.w->k(), lora.r, true, Halves(args.x), Halves(w),
                      Halves(lora.a), Halves(lora.b), Halves(args.bias), Halves(args.residual),
                      static_cast<uint16_t*>(lora.u), static_cast<uint16_t*>(args.y)});
}

template <DType T>
void ForwardBase(const Context& context, const SimdOps& simd, const LinearForwardArgs& args) {
  const StoredWeights& w = Stored(args.w);
  if (args.m == 0) return;
  const Workspace::Scope scope(*context.workspace);
  if (args.m <= kGemvMaxRows && w.format() == WeightFormat::kBF16) {
    simd.gemv_bf16(context,
                   {args.m, w.n(), w.k(), args.x, w.data(), args.residual, args.y, args.bias});
    return;
  }
  if (args.m == 1 && IsQuantized(w.format())) return ForwardOneRow<T>(context, simd, args);
  const void* data = Unpacked(context, simd, w, T);
  if (args.m <= kGemvMaxRows) {
    simd.gemv(context, {args.m, w.n(), w.k(), args.x, data, args.residual, args.y, args.bias});
    return;
  }
  // A residual that y already holds needs no second matrix.
  const MatmulPost post = args.residual == nullptr  ? MatmulPost::kNone
                          : args.residual == args.y ? MatmulPost::kSum
                                                    : MatmulPost::kResidual;
  const bool biased = args.bias != nullptr;
  Matmul(context, {T, T, args.m, w.n(), w.k(), false, true, post, biased}, args.x, data, args.y,
         args.residual, args.bias);
}

template <DType T>
void Forward(const Context& context, const SimdOps& simd, const LinearForwardArgs& args) {
  if (T == DType::kBF16 && AmxLinearFits(args.m, args.w->n(), args.w->k())) {
    const Workspace::Scope scope(*context.workspace);
    ForwardAmx(context, args, Unpacked(context, simd, Stored(args.w), T));
    return;
  }
  ForwardBase<T>(context, simd, args);
  if (args.lora == nullptr) return;
  (T == DType::kBF16 ? LoraForwardCpuBF16 : LoraForwardCpuF32)(context, *args.lora);
}

// As ForwardAmx. The gradients of A and B are then added up from the v that it leaves.
void BackwardAmx(const Context& context, const LinearBackwardArgs& args, const void* w) {
  const LoraBackwardArgs lora = args.lora == nullptr ? LoraBackwardArgs{} : *args.lora;
  uint16_t* v = context.workspace->Array<uint16_t>(static_cast<size_t>(args.m * lora.r));
  AmxLinear(context,
            {args.m, args.w->k(), args.w->n(), lora.r, false, Halves(args.dy), Halves(w),
             Halves(lora.b), Halves(lora.a), nullptr, args.accumulate ? Halves(args.dx) : nullptr,
             v, static_cast<uint16_t*>(args.dx)});
  if (args.lora != nullptr) AddLoraGradients(context, DType::kBF16, lora, v);
}

template <DType T>
void Backward(const Context& context, const SimdOps& simd, const LinearBackwardArgs& args) {
  const StoredWeights& w = Stored(args.w);
  if (args.m == 0) return;
  const Workspace::Scope scope(*context.workspace);
  const void* data = Unpacked(context, simd, w, T);
  if (T == DType::kBF16 && AmxLinearFits(args.m, w.k(), w.n())) {
    BackwardAmx(context, args, data);
    return;
  }
  const MatmulPost post = args.accumulate ? MatmulPost::kSum : MatmulPost::kNone;
  Matmul(context, {T, T, args.m, w.k(), w.n(), false, false, post}, args.dy, data, args.dx);
  if (args.lora == nullptr) return;
  (T == DType::kBF16 ? LoraBackwardCpuBF16 : LoraBackwardCpuF32)(context, *args.lora);
}

template <DType T>
void LogitsOf(const Context& context, const SimdOps& simd, const LogitsArgs& args) {
  const StoredWeights& w = Stored(args.w);
  if (args.m == 0) return;
  const Workspace::Scope scope(*context.workspace);
  if (T == DType::kF32 && args.m <= kGemvMaxRows && w.format() == WeightFormat::kBF16) {
    simd.gemv_bf16(context, {args.m, w.n(), w.k(), args.h, w.data(), nullptr, args.logits});
    return;
  }
  const void* data = Unpacked(context, simd, w, T);
  if (args.m <= kGemvMaxRows) {
    simd.gemv_logits(context, {args.m, w.n(), w.k(), args.h, data, nullptr, args.logits});
    return;
  }
  Matmul(context, {T, DType::kF32, args.m, w.n(), w.k(), false, true, MatmulPost::kNone}, args.h,
         data, args.logits);
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

void WidenRows(const Context& context, const EmbeddingArgs& args) {
  const int64_t k = args.table.k;
  const uint16_t* table = static_cast<const uint16_t*>(args.table.data);
  float* out = static_cast<float*>(args.out);
  const ScopedThreads threads(context.threads);
#pragma omp parallel for schedule(static) if (args.m >= 64)
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t j = 0; j < k; ++j) out[i * k + j] = WidenBF16(table[args.ids[i] * k + j]);
  }
}

std::unique_ptr<PreparedWeights> Prepare(const WeightSource& source) {
  return std::make_unique<StoredWeights>(source);
}

}  // namespace

// Batches of decoding stay with oneDNN, which does better on so few rows.
constexpr int64_t kDecodingRows = 32;

bool AmxLinearFits(int64_t m, int64_t n, int64_t k) {
  return m > kDecodingRows && n % 32 == 0 && k % 32 == 0 && DetectCpuIsa() >= CpuIsa::kAmxBF16;
}

std::unique_ptr<PreparedWeights> PrepareWeightsCpuF32(const WeightSource& source) {
  return source.format == WeightFormat::kF64 ? nullptr : Prepare(source);
}
std::unique_ptr<PreparedWeights> PrepareWeightsCpuBF16(const WeightSource& source) {
  const bool taken = source.format == WeightFormat::kBF16 || IsQuantized(source.format);
  return taken ? Prepare(source) : nullptr;
}

void LinearForwardCpuF32(const Context& context, const LinearForwardArgs& args) {
  Forward<DType::kF32>(context, SimdF32(), args);
}
void LinearForwardCpuBF16(const Context& context, const LinearForwardArgs& args) {
  Forward<DType::kBF16>(context, kSimdAvx512BF16, args);
}

void LinearBackwardCpuF32(const Context& context, const LinearBackwardArgs& args) {
  Backward<DType::kF32>(context, SimdF32(), args);
}
void LinearBackwardCpuBF16(const Context& context, const LinearBackwardArgs& args) {
  Backward<DType::kBF16>(context, kSimdAvx512BF16, args);
}

void LogitsCpuF32(const Context& context, const LogitsArgs& args) {
  LogitsOf<DType::kF32>(context, SimdF32(), args);
}
void LogitsCpuBF16(const Context& context, const LogitsArgs& args) {
  LogitsOf<DType::kBF16>(context, kSimdAvx512BF16, args);
}

void EmbeddingCpuF32(const Context& context, const EmbeddingArgs& args) {
  if (args.table.format == WeightFormat::kBF16) return WidenRows(context, args);
  CopyRows(context, args, static_cast<size_t>(args.table.k) * sizeof(float));
}
void EmbeddingCpuBF16(const Context& context, const EmbeddingArgs& args) {
  CopyRows(context, args, static_cast<size_t>(args.table.k) * sizeof(uint16_t));
}

}  // namespace tidegate::kernels
