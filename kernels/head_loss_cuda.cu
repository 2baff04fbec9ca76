// The head and its cross-entropy on CUDA: one sweep over tiles of the vocabulary. A tile's logits
// are a product; a pass over them keeps each row's running maximum and sum and leaves
// exp(logit − maximum), whose product with the tile's weights is added to the gradient, scaled
// whenever the maximum has grown.
#include <cmath>

#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_matmul.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_vectors.h"

namespace tidegate::kernels {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / simt::kWarp;
constexpr int64_t kTile = 4096;  // words
constexpr int64_t kRows = 2048;  // rows of one sweep: a tile's logits are 32 MiB, in the cache
constexpr int kPacks = kTile / (kThreads * kPack);

struct Tile {
  int64_t begin, words;  // of the vocabulary
  bool first;
};

// What the sweep knows of each row.
struct Running {
  float* max;
  float* sum;     // of exp(logit − max)
  float* target;  // the target's logit
  float* shrink;  // what the row's gradient is to be multiplied by before it grows
};

// One row a block; its logits stay in registers.
template <typename T>
SIMT_KERNEL(kThreads)
Advance(Tile tile, const float* logits, const int32_t* targets, Running running, T* p) {
  SIMT_SHARED(float, partial, [kWarps]);
  const int64_t row = blockIdx.x;
  const float* in = logits + row * kTile;
  const int first = static_cast<int>(threadIdx.x) * kPack;
  float v[kPacks][kPack], max = -INFINITY;
  SIMT_UNROLL
  for (int pack = 0; pack < kPacks; ++pack) {
    const int64_t at = first + pack * kThreads * kPack, left = tile.words - at;
    Load8(in + at, left, left >= kPack, v[pack]);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) {
      if (e >= left) v[pack][e] = -INFINITY;
      max = fmaxf(max, v[pack][e]);
    }
  }
  const float before = tile.first ? -INFINITY : running.max[row];
  max = fmaxf(GroupMax<kWarps>(max, partial), before);
  float sum = 0;
  SIMT_UNROLL
  for (int pack = 0; pack < kPacks; ++pack) {
    const int64_t at = first + pack * kThreads * kPack, left = tile.words - at;
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) {
      v[pack][e] = expf(v[pack][e] - max);
      sum += v[pack][e];
    }
    // A pack is written whole: products read in pairs, also past the last word.
    if (p != nullptr && left > 0) StoreAligned(p + row * kTile + at, v[pack]);
  }
  sum = GroupSum<kWarps>(sum, partial);
  if (threadIdx.x != 0) return;
  const float shrink = expf(before - max);
  running.sum[row] = tile.first ? sum : running.sum[row] * shrink + sum;
  running.max[row] = max;
  running.shrink[row] = shrink;
  const int64_t target = targets[row] - tile.begin;
  if (target >= 0 && target < tile.words) running.target[row] = in[target];
}

SIMT_KERNEL(kThreads)
Shrink(int64_t k, const float* shrink, float* gradient) {
  const float factor = shrink[blockIdx.x];
  if (factor == 1.0f) return;
  float* row = gradient + int64_t{blockIdx.x} * k;
  for (int64_t i = threadIdx.x; i < k; i += kThreads) row[i] *= factor;
}

template <typename T, typename Lies>
struct Result {
  int64_t k;
  const Lies* w;
  const int32_t* targets;
  const float* weights;
  const float* gradient;
  float* loss;
  float* lse;
  T* dh;
};

template <typename T, typename Lies>
SIMT_KERNEL(kThreads)
Finish(Running running, Result<T, Lies> r) {
  const int64_t row = blockIdx.x;
  const float sum = running.sum[row], lse = running.max[row] + logf(sum);
  if (threadIdx.x == 0) {
    r.loss[row] = lse - running.target[row];
    if (r.lse != nullptr) r.lse[row] = lse;
  }
  if (r.dh == nullptr) return;
  const float weight = r.weights != nullptr ? r.weights[row] : 1.0f;
  const Lies* target = r.w + int64_t{r.targets[row]} * r.k;
  for (int64_t i = threadIdx.x; i < r.k; i += kThreads) {
    r.dh[row * r.k + i] = Narrow<T>(weight * (r.gradient[row * r.k + i] / sum - Widen(target[i])));
  }
}

// weight · softmax of a tile.
template <typename T>
SIMT_KERNEL(kThreads)
Slopes(Tile tile, const float* logits, const float* weights, const float* lse, T* g) {
  const int64_t row = blockIdx.x;
  const float weight = weights != nullptr ? weights[row] : 1.0f, of_row = lse[row];
  float v[kPack];
  for (int64_t at = threadIdx.x * kPack; at < tile.words; at += kThreads * kPack) {
    const int64_t left = tile.words - at;
    Load8(logits + row * kTile + at, left, left >= kPack, v);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) {
      v[e] = e < left ? weight * expf(v[e] - of_row) : 0.0f;
    }
    StoreAligned(g + row * kTile + at, v);
  }
}

template <typename T>
void TileLogits(const Context& context, int64_t rows, int64_t k, const Tile& tile, const T* h,
                const T* w, float* logits) {
  CudaMatmulSpec spec = {kTypeOf<T>, DType::kF32, rows, tile.words, k, false, true};
  spec.c_row = kTile;
  CudaMatmul(context, spec, h, w, logits);
}

Tile TileAt(int64_t begin, int64_t vocab) {
  return {begin, vocab - begin < kTile ? vocab - begin : kTile, begin == 0};
}

template <typename T>
const T* At(const void* p, int64_t i) {
  return p == nullptr ? nullptr : static_cast<const T*>(p) + i;
}
template <typename T>
T* At(void* p, int64_t i) {
  return p == nullptr ? nullptr : static_cast<T*>(p) + i;
}

// Rows begin … begin+rows-1.
template <typename T>
void Sweep(const Context& context, const HeadLossArgs& args, int64_t begin, int64_t rows) {
  const Workspace::Scope scope(*context.workspace);
  Workspace& scratch = *context.workspace;
  const int64_t vocab = args.w->n(), k = args.w->k();
  const unsigned blocks = static_cast<unsigned>(rows);
  const size_t count = static_cast<size_t>(rows);
  const Running running = {scratch.Array<float>(count), scratch.Array<float>(count),
                           scratch.Array<float>(count), scratch.Array<float>(count)};
  float* logits = scratch.Array<float>(count * kTile);
  T* p = args.dh != nullptr ? scratch.Array<T>(count * kTile) : nullptr;
  float* gradient =
      args.dh != nullptr ? scratch.Array<float>(count * static_cast<size_t>(k)) : nullptr;
  const T* h = At<T>(args.h, begin * k);
  const int32_t* targets = args.targets + begin;
  for (int64_t word = 0; word < vocab; word += kTile) {
    const Workspace::Scope of_tile(scratch);
    const Tile tile = TileAt(word, vocab);
    const T* w = WeightRows<T>(context, args.w, tile.begin, tile.words);
    TileLogits(context, rows, k, tile, h, w, logits);
    Launch(context, "head loss", Advance<T>, blocks, kThreads, 0, tile, logits, targets, running,
           p);
    if (p == nullptr) continue;
    if (!tile.first) {
      Launch(context, "head loss", Shrink, blocks, kThreads, 0, k, running.shrink, gradient);
    }
    CudaMatmulSpec spec = {kTypeOf<T>, DType::kF32, rows, k, tile.words, false, false, !tile.first};
    spec.a_row = kTile;
    CudaMatmul(context, spec, p, w, gradient);
  }
  const auto finish = [&](auto stored) {
    using Lies = decltype(stored);
    const Result<T, Lies> result = {k,
                                    static_cast<const Lies*>(Stored(args.w).data()),
                                    targets,
                                    At<float>(args.weights, begin),
                                    gradient,
                                    At<float>(args.loss, begin),
                                    At<float>(args.lse, begin),
                                    At<T>(args.dh, begin * k)};
    Launch(context, "head loss", Finish<T, Lies>, blocks, kThreads, 0, running, result);
  };
  if (Stored(args.w).format() == WeightFormat::kF32) return finish(float{});
  finish(BF16{});
}

}  // namespace

template <typename T>
void HeadLossCuda(const Context& context, const HeadLossArgs& args) {
  for (int64_t row = 0; row < args.m; row += kRows) {
    Sweep<T>(context, args, row, args.m - row < kRows ? args.m - row : kRows);
  }
}

template <typename T>
void HeadGradientCuda(const Context& context, const HeadGradientArgs& args) {
  const Workspace::Scope scope(*context.workspace);
  const int64_t vocab = args.w->n(), k = args.w->k();
  const size_t most = static_cast<size_t>(args.m < kRows ? args.m : kRows);
  float* logits = context.workspace->Array<float>(most * kTile);
  T* g = context.workspace->Array<T>(most * kTile);
  for (int64_t word = 0; word < vocab; word += kTile) {
    const Workspace::Scope of_tile(*context.workspace);
    const Tile tile = TileAt(word, vocab);
    const T* w = WeightRows<T>(context, args.w, tile.begin, tile.words);
    for (int64_t row = 0; row < args.m; row += kRows) {
      const int64_t rows = args.m - row < kRows ? args.m - row : kRows;
      const T* h = At<T>(args.h, row * k);
      TileLogits(context, rows, k, tile, h, w, logits);
      Launch(context, "head gradient", Slopes<T>, static_cast<unsigned>(rows), kThreads, 0, tile,
             logits, At<float>(args.weights, row), At<float>(args.lse, row), g);
      CudaMatmulSpec spec = {kTypeOf<T>, DType::kF32, tile.words, k, rows, true, false, true};
      spec.a_row = kTile;
      CudaMatmul(context, spec, g, h, At<float>(args.dw, tile.begin * k));
    }
  }
  // Apart, in floats: near -1 a slope in bf16 would lose the probability beside it.
  AddRowsById(context, args.m, k, args.targets, static_cast<const T*>(args.h), args.weights, -1.0f,
              static_cast<float*>(args.dw));
}

template void HeadLossCuda<float>(const Context&, const HeadLossArgs&);
template void HeadLossCuda<BF16>(const Context&, const HeadLossArgs&);
template void HeadGradientCuda<float>(const Context&, const HeadGradientArgs&);
template void HeadGradientCuda<BF16>(const Context&, const HeadGradientArgs&);

}  // namespace tidegate::kernels
