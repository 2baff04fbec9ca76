// The head as attention over the vocabulary: per chunk of rows, vocabulary tile by tile, logits by
// a matmul, their exponentials by a tile kernel, and the gradient summed by a second matmul.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/internal/cpu.h"
#include "kernels/internal/head_tile.h"
#include "kernels/internal/matmul.h"
#include "kernels/internal/ops.h"
#include "kernels/internal/simd_ops.h"
#include "kernels/internal/weights.h"

namespace tidegate::kernels {
namespace {

// 512 × 512 keeps a chunk's scratch in the caches, and the second product's reduced axis at a
// length that is never split over threads.
constexpr int64_t kRows = 512;
constexpr int64_t kColumns = 512;
// Tails are rounded up, so that a handful of matmul primitives serves any number of rows.
constexpr int64_t kRowStep = 32;
constexpr int64_t kRowsPerItem = 16;

using TileKernel = void (*)(const HeadTile&, int64_t, int64_t);

struct Chunk {
  int64_t first, rows;  // of the caller's
  int64_t padded;       // rows that the matmuls see
  const void* h;        // [padded, k]
  float* logits;        // [padded, kColumns]
  void* p;              // as logits, in the activation type
  float* dx;            // [padded, k]
  float* max;           // [padded]
  float* sum;           // [padded]
  float* target;        // [padded] the target's logit
};

class Sweep {
 public:
  Sweep(const Context& context, const HeadLossArgs& args, DType dtype, TileKernel kernel)
      : context_(context),
        args_(args),
        dtype_(dtype),
        kernel_(kernel),
        vocab_(args.w->n()),
        k_(args.w->k()),
        w_(Stored(args.w)) {}

  void Run() {
    for (int64_t first = 0; first < args_.m; first += kRows) {
      const Workspace::Scope scope(*context_.workspace);
      Chunk chunk = MakeChunk(first, std::min(kRows, args_.m - first));
      for (int64_t column = 0; column < vocab_; column += kColumns) {
        RunTile(chunk, column, std::min(kColumns, vocab_ - column));
      }
      Finish(chunk);
    }
  }

 private:
  // Rows of the weights in the activation type, as they lie or widened into the caller's scope.
  const void* WeightRows(int64_t row, int64_t rows) const {
    if (w_.LiesAs(dtype_)) {
      return static_cast<const char*>(w_.data()) + static_cast<size_t>(row * k_) * SizeOf(dtype_);
    }
    float* out = context_.workspace->Array<float>(static_cast<size_t>(rows * k_));
    SimdF32().dequantize(context_, {w_.format(), k_, row, row + rows, w_.view(), out});
    return out;
  }

  Chunk MakeChunk(int64_t first, int64_t rows) const {
    Workspace& workspace = *context_.workspace;
    const int64_t padded = (rows + kRowStep - 1) / kRowStep * kRowStep;
    const size_t row_bytes = static_cast<size_t>(k_) * SizeOf(dtype_);
    const size_t tile = static_cast<size_t>(padded * std::min(kColumns, vocab_));
    Chunk c = {};
    c.first = first;
    c.rows = rows;
    c.padded = padded;
    c.h = static_cast<const char*>(args_.h) + static_cast<size_t>(first) * row_bytes;
    if (padded != rows) {
      char* copy = workspace.Array<char>(static_cast<size_t>(padded) * row_bytes);
      std::memcpy(copy, c.h, static_cast<size_t>(rows) * row_bytes);
      std::memset(copy + static_cast<size_t>(rows) * row_bytes, 0,
                  static_cast<size_t>(padded - rows) * row_bytes);
      c.h = copy;
    }
    c.logits = workspace.Array<float>(tile);
    if (args_.dh) {
      c.p = dtype_ == DType::kBF16 ? workspace.Allocate(tile * SizeOf(dtype_)) : c.logits;
      c.dx = workspace.Array<float>(static_cast<size_t>(padded * k_));
    }
    c.max = workspace.Array<float>(static_cast<size_t>(padded));
    c.sum = workspace.Array<float>(static_cast<size_t>(padded));
    c.target = workspace.Array<float>(static_cast<size_t>(padded));
    std::fill(c.max, c.max + padded, -HUGE_VALF);
    std::fill(c.sum, c.sum + padded, 0.0f);
    return c;
  }

  void RunTile(const Chunk& c, int64_t column, int64_t columns) const {
    const Workspace::Scope scope(*context_.workspace);
    const void* w = WeightRows(column, columns);
    Matmul(context_, {dtype_, DType::kF32, c.padded, columns, k_, false, true, MatmulPost::kNone},
           c.h, w, c.logits);
    // Before the tile kernel, which may write over the logits.
    for (int64_t i = 0; i < c.rows; ++i) {
      const int64_t at = args_.targets[c.first + i] - column;
      if (at >= 0 && at < columns) c.target[i] = c.logits[i * columns + at];
    }
    const HeadTile tile = {c.padded, columns, k_,    c.logits,
                           c.p,      c.max,   c.sum, column == 0 ? nullptr : c.dx};
#pragma omp parallel for num_threads(context_.threads) schedule(static)
    for (int64_t i = 0; i < c.padded; i += kRowsPerItem) {
      kernel_(tile, i, std::min(c.padded, i + kRowsPerItem));
    }
    if (!args_.dh) return;
    const MatmulPost post = column == 0 ? MatmulPost::kNone : MatmulPost::kSum;
    Matmul(context_, {dtype_, DType::kF32, c.padded, k_, columns, false, false, post}, c.p, w,
           c.dx);
  }

  void Finish(const Chunk& c) const {
    float* loss = static_cast<float*>(args_.loss) + c.first;
#pragma omp parallel for num_threads(context_.threads) schedule(static)
    for (int64_t i = 0; i < c.rows; ++i) {
      const float lse = c.max[i] + std::log(c.sum[i]);
      loss[i] = lse - c.target[i];
      if (args_.lse) static_cast<float*>(args_.lse)[c.first + i] = lse;
      if (args_.dh) Gradient(c, i);
    }
  }

  void Gradient(const Chunk& c, int64_t i) const {
    const int64_t row = c.first + i;
    const float weight = args_.weights ? args_.weights[row] : 1.0f;
    const float* dx = c.dx + i * k_;
    const int64_t at = args_.targets[row] * k_;
    const uint16_t* half = static_cast<const uint16_t*>(w_.data()) + at;
    if (dtype_ == DType::kBF16) {
      HeadGradientBF16Avx512(dx, half, 1.0f / c.sum[i], weight, k_,
                             static_cast<uint16_t*>(args_.dh) + row * k_);
      return;
    }
    const bool whole = w_.LiesAs(DType::kF32);
    float* dh = static_cast<float*>(args_.dh) + row * k_;
    for (int64_t d = 0; d < k_; ++d) {
      const float w = whole ? static_cast<const float*>(w_.data())[at + d] : WidenBF16(half[d]);
      dh[d] = weight * (dx[d] / c.sum[i] - w);
    }
  }

  const Context& context_;
  const HeadLossArgs& args_;
  const DType dtype_;
  const TileKernel kernel_;
  const int64_t vocab_, k_;
  const StoredWeights& w_;
};

}  // namespace

void HeadTileF32Portable(const HeadTile& tile, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const float* logits = tile.logits + i * tile.columns;
    float* p = static_cast<float*>(tile.p);
    float max = tile.max[i];
    for (int64_t j = 0; j < tile.columns; ++j) max = std::max(max, logits[j]);
    const float factor = std::exp(tile.max[i] - max);
    float sum = tile.sum[i] * factor;
    for (int64_t j = 0; j < tile.columns; ++j) {
      const float e = std::exp(logits[j] - max);
      sum += e;
      if (p) p[i * tile.columns + j] = e;
    }
    if (tile.dx && factor != 1.0f) {
      for (int64_t d = 0; d < tile.k; ++d) tile.dx[i * tile.k + d] *= factor;
    }
    tile.max[i] = max;
    tile.sum[i] = sum;
  }
}

void HeadLossCpuF32(const Context& context, const HeadLossArgs& args) {
  const bool wide = DetectCpuIsa() >= CpuIsa::kAvx512;
  Sweep(context, args, DType::kF32, wide ? HeadTileF32Avx512 : HeadTileF32Portable).Run();
}

void HeadLossCpuBF16(const Context& context, const HeadLossArgs& args) {
  Sweep(context, args, DType::kBF16, HeadTileBF16Avx512).Run();
}

}  // namespace tidegate::kernels
