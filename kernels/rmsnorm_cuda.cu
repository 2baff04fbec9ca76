// RMSNorm on CUDA. A row belongs to one warp where it is short, else to a block; it is read from
// memory once and from the cache after that.
#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_vectors.h"

namespace tidegate::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kLongRow = 2048;     // elements from which a row gets a block
constexpr int kGradientRows = 64;  // rows whose part of a gradient is one partial sum

struct Lane {
  int64_t row;
  int first, stride;  // in packs of eight
};

// kWarps: of a row, 1 or all of the block.
template <int kWarps>
SIMT_DEVICE Lane ThisLane() {
  constexpr int kGroup = kWarps * simt::kWarp;
  const int thread = static_cast<int>(threadIdx.x);
  return {int64_t{blockIdx.x} * (kThreads / kGroup) + thread / kGroup, thread % kGroup, kGroup};
}

template <typename T, int kWarps>
SIMT_KERNEL(kThreads)
Forward(RmsNormForwardArgs args, bool aligned) {
  SIMT_SHARED(float, partial, [8]);
  const Lane lane = ThisLane<kWarps>();
  const int64_t n = args.n, row = lane.row < args.m ? lane.row : args.m - 1;
  const T* x = static_cast<const T*>(args.x) + row * n;
  float squares = 0, v[kPack], w[kPack];
  for (int64_t i = lane.first * kPack; i < n; i += lane.stride * kPack) {
    Load8(x + i, n - i, aligned, v);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) squares += v[e] * v[e];
  }
  const float mean = GroupSum<kWarps>(squares, partial) / static_cast<float>(n);
  const float rstd = 1.0f / sqrtf(mean + static_cast<float>(args.eps));
  if (lane.row >= args.m) return;
  T* y = static_cast<T*>(args.y) + row * n;
  for (int64_t i = lane.first * kPack; i < n; i += lane.stride * kPack) {
    Load8(x + i, n - i, aligned, v);
    Load8(static_cast<const T*>(args.w) + i, n - i, aligned, w);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) v[e] = RoundTo<T>(v[e] * rstd) * w[e];
    Store8(y + i, n - i, aligned, v);
  }
  if (args.rstd != nullptr && lane.first == 0) static_cast<float*>(args.rstd)[row] = rstd;
}

// With g = dy·w: dx = rstd·g − x·rstd³·mean(g·x).
template <typename T, int kWarps>
SIMT_KERNEL(kThreads)
Backward(RmsNormBackwardArgs args, bool aligned) {
  SIMT_SHARED(float, partial, [8]);
  const Lane lane = ThisLane<kWarps>();
  const int64_t n = args.n, row = lane.row < args.m ? lane.row : args.m - 1;
  const T* x = static_cast<const T*>(args.x) + row * n;
  const T* dy = static_cast<const T*>(args.dy) + row * n;
  const T* weight = static_cast<const T*>(args.w);
  float dot = 0, v[kPack], w[kPack], g[kPack];
  for (int64_t i = lane.first * kPack; i < n; i += lane.stride * kPack) {
    Load8(x + i, n - i, aligned, v);
    Load8(dy + i, n - i, aligned, g);
    Load8(weight + i, n - i, aligned, w);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) dot += g[e] * w[e] * v[e];
  }
  const float rstd = static_cast<const float*>(args.rstd)[row];
  const float shared = GroupSum<kWarps>(dot, partial) * rstd / static_cast<float>(n) * rstd;
  if (lane.row >= args.m) return;
  T* dx = static_cast<T*>(args.dx) + row * n;
  for (int64_t i = lane.first * kPack; i < n; i += lane.stride * kPack) {
    Load8(x + i, n - i, aligned, v);
    Load8(dy + i, n - i, aligned, g);
    Load8(weight + i, n - i, aligned, w);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) v[e] = (g[e] * w[e] - v[e] * shared) * rstd;
    if (args.accumulate) {
      Load8(dx + i, n - i, aligned, g);
      SIMT_UNROLL
      for (int e = 0; e < kPack; ++e) v[e] += g[e];
    }
    Store8(dx + i, n - i, aligned, v);
  }
}

// partial[block of rows][column]: Σ dy · x · rstd over the rows of the block. A column a thread.
template <typename T>
SIMT_KERNEL(kThreads)
GradientParts(RmsNormGradientArgs args, float* partial) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= args.n) return;
  const int64_t begin = int64_t{blockIdx.y} * kGradientRows;
  const int64_t end = begin + kGradientRows < args.m ? begin + kGradientRows : args.m;
  const T* x = static_cast<const T*>(args.x) + column;
  const T* dy = static_cast<const T*>(args.dy) + column;
  float sum = 0;
  for (int64_t row = begin; row < end; ++row) {
    const float rstd = static_cast<const float*>(args.rstd)[row];
    sum += Widen(dy[row * args.n]) * RoundTo<T>(Widen(x[row * args.n]) * rstd);
  }
  partial[blockIdx.y * args.n + column] = sum;
}

// How many blocks rows of n need, and whether each has one.
template <typename Args>
bool RowsAreLong(const Args& args) {
  return args.n >= kLongRow;
}

}  // namespace

template <typename T>
void RmsNormForwardCuda(const Context& context, const RmsNormForwardArgs& args) {
  const bool aligned = args.n % kPack == 0 && AllAligned16(args.x, args.w, args.y);
  if (RowsAreLong(args)) {
    Launch(context, "rmsnorm", Forward<T, 8>, BlocksFor(args.m, 1), kThreads, 0, args, aligned);
  } else {
    Launch(context, "rmsnorm", Forward<T, 1>, BlocksFor(args.m, 8), kThreads, 0, args, aligned);
  }
}

template <typename T>
void RmsNormBackwardCuda(const Context& context, const RmsNormBackwardArgs& args) {
  const bool aligned = args.n % kPack == 0 && AllAligned16(args.x, args.w, args.dy, args.dx);
  if (RowsAreLong(args)) {
    Launch(context, "rmsnorm backward", Backward<T, 8>, BlocksFor(args.m, 1), kThreads, 0, args,
           aligned);
  } else {
    Launch(context, "rmsnorm backward", Backward<T, 1>, BlocksFor(args.m, 8), kThreads, 0, args,
           aligned);
  }
}

template <typename T>
void RmsNormGradientCuda(const Context& context, const RmsNormGradientArgs& args) {
  if (args.m == 0) return;
  const Workspace::Scope scope(*context.workspace);
  const unsigned parts = BlocksFor(args.m, kGradientRows);
  float* partial = context.workspace->Array<float>(static_cast<size_t>(parts * args.n));
  Launch(context, "rmsnorm gradient", GradientParts<T>, dim3(BlocksFor(args.n, kThreads), parts),
         kThreads, 0, args, partial);
  AddColumnSums(context, partial, parts, args.n, static_cast<float*>(args.dw));
}

template void RmsNormForwardCuda<float>(const Context&, const RmsNormForwardArgs&);
template void RmsNormForwardCuda<BF16>(const Context&, const RmsNormForwardArgs&);
template void RmsNormBackwardCuda<float>(const Context&, const RmsNormBackwardArgs&);
template void RmsNormBackwardCuda<BF16>(const Context&, const RmsNormBackwardArgs&);
template void RmsNormGradientCuda<float>(const Context&, const RmsNormGradientArgs&);
template void RmsNormGradientCuda<BF16>(const Context&, const RmsNormGradientArgs&);

}  // namespace tidegate::kernels
