// Attention on CUDA, one row a warp: floats, and shapes that the tensor cores' tiles don't take.
// A lane holds a key while scores are computed and a slice of the head while values are summed.
#include <cmath>
#include <type_traits>

#include "kernels/internal/cuda_attention.h"
#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_vectors.h"

namespace tidegate::kernels {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / simt::kWarp;
constexpr int64_t kSplitKeys = 64;  // keys of one part when a few rows see many

// The lane's elements of a head: lane, lane + 32, …; a head has at most 32 · kSlices.
template <int kSlices>
struct Slice {
  float v[kSlices];
};
constexpr int kFewSlices = 4, kManySlices = 16;

SIMT_DEVICE int LaneOf() { return static_cast<int>(threadIdx.x) % simt::kWarp; }
SIMT_DEVICE int WarpOf() { return static_cast<int>(threadIdx.x) / simt::kWarp; }

template <typename T>
SIMT_DEVICE float DotShared(const float* shared, const T* p, int head_dim, bool aligned) {
  float sum = 0, v[kPack];
  for (int d = 0; d < head_dim; d += kPack) {
    Load8(p + d, head_dim - d, aligned, v);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) {
      if (d + e < head_dim) sum += shared[d + e] * v[e];
    }
  }
  return sum;
}

template <typename T>
SIMT_DEVICE void ToShared(const T* p, int head_dim, float* shared) {
  for (int d = LaneOf(); d < head_dim; d += simt::kWarp) shared[d] = Widen(p[d]);
  __syncwarp();
}

// sum[c] += weight[key] · p[key · stride + lane + 32c] for `keys` keys.
template <typename T, int kSlices>
SIMT_DEVICE void AddWeighted(const float* weight, const T* p, int64_t stride, int keys,
                             int head_dim, Slice<kSlices>& sum) {
  SIMT_UNROLL_FEW
  for (int key = 0; key < keys; ++key) {
    const float w = weight[key];
    const T* row = p + key * stride;
    SIMT_UNROLL
    for (int c = 0; c < kSlices; ++c) {
      const int d = LaneOf() + c * simt::kWarp;
      if (d < head_dim) sum.v[c] += w * Widen(row[d]);
    }
  }
}

template <typename T, int kSlices>
SIMT_DEVICE void StoreSlice(const Slice<kSlices>& slice, float factor, int head_dim, T* p) {
  SIMT_UNROLL
  for (int c = 0; c < kSlices; ++c) {
    const int d = LaneOf() + c * simt::kWarp;
    if (d < head_dim) p[d] = Narrow<T>(slice.v[c] * factor);
  }
}

// A part of a row's keys: its values are in `sum`, unscaled, with exponents relative to max.
struct Part {
  float max, total;
};

template <typename T, int kSlices>
SIMT_DEVICE Part AttendKeys(const T* k, const T* v, int64_t stride, int64_t begin, int64_t end,
                            int head_dim, float scale, bool aligned, const float* q, float* weight,
                            Slice<kSlices>& sum) {
  Part part = {-INFINITY, 0};
  k += begin * stride;
  v += begin * stride;
  for (int left = static_cast<int>(end - begin); left > 0; left -= simt::kWarp) {
    const int keys = left < simt::kWarp ? left : simt::kWarp;
    float score = -INFINITY;
    if (LaneOf() < keys) score = scale * DotShared(q, k + LaneOf() * stride, head_dim, aligned);
    const float max = fmaxf(part.max, WarpMax(score)), shrink = expf(part.max - max);
    const float p = expf(score - max);
    part.total = part.total * shrink + WarpSum(p);
    part.max = max;
    SIMT_UNROLL
    for (int c = 0; c < kSlices; ++c) sum.v[c] *= shrink;
    weight[LaneOf()] = p;
    __syncwarp();
    AddWeighted(weight, v, stride, keys, head_dim, sum);
    k += simt::kWarp * stride;
    v += simt::kWarp * stride;
    __syncwarp();
  }
  return part;
}

template <typename T, int kSlices>
SIMT_KERNEL(kThreads)
ForwardRows(AttentionInputs<T> in, AttentionOutputs<T> out) {
  SIMT_SHARED(float, q, [kWarps][kSlices * simt::kWarp]);
  SIMT_SHARED(float, weight, [kWarps][simt::kWarp]);
  const AttentionRows& s = in.shape;
  const int64_t row = int64_t{blockIdx.x} * kWarps + WarpOf(), head = blockIdx.y;
  if (row >= s.rows) return;
  const int head_dim = static_cast<int>(s.head_dim);
  const int64_t at = (row * s.heads + head) * s.head_dim;
  const int64_t kv = static_cast<int>(blockIdx.y) / s.group * s.head_dim;
  ToShared(in.q + at, head_dim, q[WarpOf()]);
  Slice<kSlices> sum = {};
  const Part part = AttendKeys(in.k + kv, in.v + kv, s.kv_heads * s.head_dim,
                               s.start == nullptr ? 0 : s.start[row], s.past + row + 1, head_dim,
                               s.scale, in.aligned, q[WarpOf()], weight[WarpOf()], sum);
  StoreSlice(sum, simt::FastInverse(part.total), head_dim, out.out + at);
  if (out.lse != nullptr && LaneOf() == 0) {
    out.lse[head * s.rows + row] = part.max + logf(part.total);
  }
}

// parts[row][head][split]: max, total, then the head's values.
template <typename T, int kSlices>
SIMT_KERNEL(kThreads)
DecodeParts(AttentionInputs<T> in, int64_t splits, float* parts) {
  SIMT_SHARED(float, q, [kWarps][kSlices * simt::kWarp]);
  SIMT_SHARED(float, weight, [kWarps][simt::kWarp]);
  const AttentionRows& s = in.shape;
  const int64_t split = int64_t{blockIdx.x} * kWarps + WarpOf(), head = blockIdx.y;
  const int64_t row = blockIdx.z;
  if (split >= splits) return;
  const int head_dim = static_cast<int>(s.head_dim);
  const int64_t kv = static_cast<int>(blockIdx.y) / s.group * s.head_dim;
  ToShared(in.q + (row * s.heads + head) * s.head_dim, head_dim, q[WarpOf()]);
  const int64_t seen = s.past + row + 1, begin = split * kSplitKeys;
  const int64_t end = begin + kSplitKeys < seen ? begin + kSplitKeys : seen;
  Slice<kSlices> sum = {};
  const Part part = AttendKeys(in.k + kv, in.v + kv, s.kv_heads * s.head_dim, begin, end, head_dim,
                               s.scale, in.aligned, q[WarpOf()], weight[WarpOf()], sum);
  float* to = parts + ((row * s.heads + head) * splits + split) * (s.head_dim + 2);
  StoreSlice(sum, 1.0f, head_dim, to + 2);
  if (LaneOf() == 0) {
    to[0] = part.max;
    to[1] = part.total;
  }
}

// One (row, head) a warp.
template <typename T, int kSlices>
SIMT_KERNEL(kThreads)
DecodeJoin(AttentionRows s, int64_t splits, const float* parts, T* out) {
  SIMT_SHARED(float, weight, [kWarps][simt::kWarp]);
  const int64_t at = int64_t{blockIdx.x} * kWarps + WarpOf(), stride = s.head_dim + 2;
  if (at >= s.rows * s.heads) return;
  const int head_dim = static_cast<int>(s.head_dim);
  const float* from = parts + at * splits * stride;
  float max = -INFINITY, total = 0;
  for (int64_t i = LaneOf(); i < splits; i += simt::kWarp) max = fmaxf(max, from[i * stride]);
  max = WarpMax(max);
  Slice<kSlices> sum = {};
  for (int64_t first = 0; first < splits; first += simt::kWarp) {
    const int64_t i = first + LaneOf(), left = splits - first;
    const float of_part = i < splits ? expf(from[i * stride] - max) : 0.0f;
    if (i < splits) total += from[i * stride + 1] * of_part;
    weight[WarpOf()][LaneOf()] = of_part;
    __syncwarp();
    AddWeighted(weight[WarpOf()], from + first * stride + 2, stride,
                static_cast<int>(left < simt::kWarp ? left : simt::kWarp), head_dim, sum);
    __syncwarp();
  }
  StoreSlice(sum, simt::FastInverse(WarpSum(total)), head_dim, out + at * s.head_dim);
}

// delta[head][row] = Σ dout · out, one a warp.
template <typename T>
SIMT_KERNEL(kThreads)
Delta(AttentionRows s, const T* dout, const T* out, float* delta) {
  const int64_t at = int64_t{blockIdx.x} * kWarps + WarpOf();
  if (at >= s.rows * s.heads) return;
  float sum = 0;
  for (int64_t d = LaneOf(); d < s.head_dim; d += simt::kWarp) {
    sum += Widen(dout[at * s.head_dim + d]) * Widen(out[at * s.head_dim + d]);
  }
  sum = WarpSum(sum);
  if (LaneOf() == 0) delta[at % s.heads * s.rows + at / s.heads] = sum;
}

template <typename T, int kSlices>
SIMT_KERNEL(kThreads)
QueryGradientRows(AttentionInputs<T> in, AttentionGradients<T> g) {
  SIMT_SHARED(float, q, [kWarps][kSlices * simt::kWarp]);
  SIMT_SHARED(float, dout, [kWarps][kSlices * simt::kWarp]);
  SIMT_SHARED(float, slope, [kWarps][simt::kWarp]);
  const AttentionRows& s = in.shape;
  const int64_t row = int64_t{blockIdx.x} * kWarps + WarpOf(), head = blockIdx.y;
  if (row >= s.rows) return;
  const int head_dim = static_cast<int>(s.head_dim), w = WarpOf();
  const int64_t at = (row * s.heads + head) * s.head_dim, stride = s.kv_heads * s.head_dim;
  const int64_t kv = static_cast<int>(blockIdx.y) / s.group * s.head_dim;
  const float scale = s.scale;
  const float lse = g.lse[head * s.rows + row], delta = g.delta[head * s.rows + row];
  ToShared(in.q + at, head_dim, q[w]);
  ToShared(g.dout + at, head_dim, dout[w]);
  Slice<kSlices> sum = {};
  for (int64_t j = s.start[row]; j <= row; j += simt::kWarp) {
    const int keys = row + 1 - j < simt::kWarp ? static_cast<int>(row + 1 - j) : simt::kWarp;
    if (LaneOf() < keys) {
      const int64_t key = kv + (j + LaneOf()) * stride;
      const float p = expf(scale * DotShared(q[w], in.k + key, head_dim, in.aligned) - lse);
      slope[w][LaneOf()] =
          p * (DotShared(dout[w], in.v + key, head_dim, in.aligned) - delta) * scale;
    }
    __syncwarp();
    AddWeighted(slope[w], in.k + kv + j * stride, stride, keys, head_dim, sum);
    __syncwarp();
  }
  StoreSlice(sum, 1.0f, head_dim, g.dq + at);
}

// One key a warp, over the rows that see it and the heads of its group. Rows of later segments
// begin after it; starts do not decrease, so the first of them is the end.
template <typename T, int kSlices>
SIMT_KERNEL(kThreads)
KeyGradientRows(AttentionInputs<T> in, AttentionGradients<T> g) {
  SIMT_SHARED(float, k, [kWarps][kSlices * simt::kWarp]);
  SIMT_SHARED(float, v, [kWarps][kSlices * simt::kWarp]);
  SIMT_SHARED(float, weight, [kWarps][simt::kWarp]);
  SIMT_SHARED(float, slope, [kWarps][simt::kWarp]);
  const AttentionRows& s = in.shape;
  const int64_t key = int64_t{blockIdx.x} * kWarps + WarpOf(), group = s.group;
  if (key >= s.rows) return;
  const int head_dim = static_cast<int>(s.head_dim), w = WarpOf();
  const int64_t at = (key * s.kv_heads + blockIdx.y) * s.head_dim, stride = s.heads * s.head_dim;
  const float scale = s.scale;
  ToShared(in.k + at, head_dim, k[w]);
  ToShared(in.v + at, head_dim, v[w]);
  Slice<kSlices> dk = {}, dv = {};
  for (int64_t head = blockIdx.y * group; head < (blockIdx.y + 1) * group; ++head) {
    for (int64_t i = key; i < s.rows && s.start[i] <= key; i += simt::kWarp) {
      const int64_t row = i + LaneOf();
      const bool sees = row < s.rows && s.start[row < s.rows ? row : i] <= key;
      float p = 0, ds = 0;
      if (sees) {
        const int64_t of_row = row * stride + head * s.head_dim, value = head * s.rows + row;
        p = expf(scale * DotShared(k[w], in.q + of_row, head_dim, in.aligned) - g.lse[value]);
        ds = p * (DotShared(v[w], g.dout + of_row, head_dim, in.aligned) - g.delta[value]) * scale;
      }
      weight[w][LaneOf()] = p;
      slope[w][LaneOf()] = ds;
      const uint32_t seen = __ballot_sync(simt::kAllLanes, sees);
      __syncwarp();
      int rows = 0;  // those that see the key come first
      for (uint32_t left = seen; left != 0; left &= left - 1) ++rows;
      const int64_t first = i * stride + head * s.head_dim;
      AddWeighted(weight[w], g.dout + first, stride, rows, head_dim, dv);
      AddWeighted(slope[w], in.q + first, stride, rows, head_dim, dk);
      __syncwarp();
    }
  }
  StoreSlice(dk, 1.0f, head_dim, g.dk + at);
  StoreSlice(dv, 1.0f, head_dim, g.dv + at);
}

float ScaleOf(int64_t head_dim) { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }

AttentionRows RowsOf(const AttentionShape& s) {
  return {s.t,
          0,
          s.heads,
          s.kv_heads,
          s.head_dim,
          s.segment_start,
          static_cast<int>(s.heads / s.kv_heads),
          ScaleOf(s.head_dim)};
}

template <typename T>
AttentionInputs<T> InputsOf(const AttentionRows& shape, const void* q, const void* k,
                            const void* v) {
  return {shape, static_cast<const T*>(q), static_cast<const T*>(k), static_cast<const T*>(v),
          shape.head_dim % kPack == 0 && AllAligned16(q, k, v)};
}

bool Fit(const AttentionInputs<float>&, const void*) { return false; }
bool Fit(const AttentionInputs<BF16>& in, const void* other) { return TilesFit(in, other); }
void Tiles(const Context&, const AttentionInputs<float>&, const AttentionOutputs<float>&) {}
void Tiles(const Context&, const AttentionInputs<float>&, const AttentionGradients<float>&) {}
void Tiles(const Context& context, const AttentionInputs<BF16>& in,
           const AttentionOutputs<BF16>& out) {
  ForwardTiles(context, in, out);
}
void Tiles(const Context& context, const AttentionInputs<BF16>& in,
           const AttentionGradients<BF16>& gradients) {
  BackwardTiles(context, in, gradients);
}

// What `run` does with few slices where the head is short, else with many.
template <typename Run>
void WithSlices(const AttentionRows& shape, const Run& run) {
  if (shape.head_dim <= kFewSlices * simt::kWarp) {
    run(std::integral_constant<int, kFewSlices>());
  } else {
    run(std::integral_constant<int, kManySlices>());
  }
}

template <typename T>
void Forward(const Context& context, const AttentionInputs<T>& in, const AttentionOutputs<T>& out) {
  if (Fit(in, out.out)) return Tiles(context, in, out);
  const dim3 grid(BlocksFor(in.shape.rows, kWarps), static_cast<unsigned>(in.shape.heads));
  WithSlices(in.shape, [&](auto slices) {
    Launch(context, "attention", ForwardRows<T, slices>, grid, kThreads, 0, in, out);
  });
}

constexpr int64_t kFewRows = 16;

}  // namespace

template <typename T>
void AttentionForwardCuda(const Context& context, const AttentionForwardArgs& args) {
  Forward(context, InputsOf<T>(RowsOf(args.shape), args.q, args.k, args.v),
          AttentionOutputs<T>{static_cast<T*>(args.out), static_cast<float*>(args.lse)});
}

template <typename T>
void AttentionBackwardCuda(const Context& context, const AttentionBackwardArgs& args) {
  const Workspace::Scope scope(*context.workspace);
  AttentionInputs<T> in = InputsOf<T>(RowsOf(args.shape), args.q, args.k, args.v);
  in.aligned = in.aligned && Aligned16(args.dout);
  const AttentionRows& s = in.shape;
  const T* dout = static_cast<const T*>(args.dout);
  float* delta = context.workspace->Array<float>(static_cast<size_t>(s.rows * s.heads));
  Launch(context, "attention backward", Delta<T>, BlocksFor(s.rows * s.heads, kWarps), kThreads, 0,
         s, dout, static_cast<const T*>(args.out), delta);
  const AttentionGradients<T> gradients = {static_cast<const float*>(args.lse),
                                           delta,
                                           dout,
                                           static_cast<T*>(args.dq),
                                           static_cast<T*>(args.dk),
                                           static_cast<T*>(args.dv)};
  const bool aligned = AllAligned16(args.dq, args.dk, args.dv);
  if (aligned && Fit(in, args.dout)) return Tiles(context, in, gradients);
  const unsigned blocks = BlocksFor(s.rows, kWarps);
  WithSlices(s, [&](auto slices) {
    Launch(context, "attention backward", QueryGradientRows<T, slices>,
           dim3(blocks, static_cast<unsigned>(s.heads)), kThreads, 0, in, gradients);
    Launch(context, "attention backward", KeyGradientRows<T, slices>,
           dim3(blocks, static_cast<unsigned>(s.kv_heads)), kThreads, 0, in, gradients);
  });
}

template <typename T>
void AttentionDecodeCuda(const Context& context, const AttentionDecodeArgs& args) {
  const AttentionRows s = {args.m,
                           args.past,
                           args.heads,
                           args.kv_heads,
                           args.head_dim,
                           nullptr,
                           static_cast<int>(args.heads / args.kv_heads),
                           ScaleOf(args.head_dim)};
  const AttentionInputs<T> in = InputsOf<T>(s, args.q, args.k_cache, args.v_cache);
  T* out = static_cast<T*>(args.out);
  const int64_t splits = (args.past + args.m + kSplitKeys - 1) / kSplitKeys;
  if (args.m >= kFewRows || splits == 1) {
    return Forward(context, in, AttentionOutputs<T>{out, nullptr});
  }
  const Workspace::Scope scope(*context.workspace);
  float* parts = context.workspace->Array<float>(
      static_cast<size_t>(args.m * args.heads * splits * (args.head_dim + 2)));
  WithSlices(s, [&](auto slices) {
    Launch(context, "attention decode", DecodeParts<T, slices>,
           dim3(BlocksFor(splits, kWarps), static_cast<unsigned>(args.heads),
                static_cast<unsigned>(args.m)),
           kThreads, 0, in, splits, parts);
    Launch(context, "attention decode", DecodeJoin<T, slices>,
           BlocksFor(args.m * args.heads, kWarps), kThreads, 0, s, splits, parts, out);
  });
}

#define TIDEGATE_INSTANTIATE(Op)                                  \
  template void Op##Cuda<float>(const Context&, const Op##Args&); \
  template void Op##Cuda<BF16>(const Context&, const Op##Args&);

TIDEGATE_INSTANTIATE(AttentionForward)
TIDEGATE_INSTANTIATE(AttentionBackward)
TIDEGATE_INSTANTIATE(AttentionDecode)

#undef TIDEGATE_INSTANTIATE

}  // namespace tidegate::kernels
