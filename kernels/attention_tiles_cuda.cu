// Attention forward in bf16 on tensor cores: a block has a tile of query rows and one head, and
// walks over the keys that any of them sees, with a running softmax (FlashAttention-2). Keys and
// values come by asynchronous copies, one tile ahead.
#include <cmath>

#include "kernels/internal/cuda_attention.h"
#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_tiles.h"

namespace tidegate::kernels {
namespace {

constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;
constexpr int kKeys = 64;  // of a tile

// kHead: columns of the tiles; kM: groups of 16 rows that a warp has.
template <int kHead, int kM, int kWarps>
struct ForwardShape {
  static constexpr int kThreads = kWarps * simt::kWarp, kRows = 16 * kM * kWarps;
  static constexpr int kRow = kTileRow<kHead>;
  static constexpr size_t kShared = sizeof(BF16) * static_cast<size_t>((kRows + 4 * kKeys) * kRow);
};

// Of the two rows that a lane has in a group of 16.
struct RowState {
  float max[2] = {-INFINITY, -INFINITY};  // in powers of two
  float sum[2] = {0, 0};                  // this lane's share
  int start[2];                           // the first key that the row sees
  int end[2];                             // and the last
};

// Scores to probabilities relative to the new maximum; what was summed before is to be multiplied
// by `shrink`.
SIMT_DEVICE void Softmax(float (&score)[kKeys / 8][4], float scale, RowState& state,
                         float (&shrink)[2]) {
  SIMT_UNROLL
  for (int half = 0; half < 2; ++half) {
    float max = -INFINITY;
    SIMT_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      max = fmaxf(max, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
    }
    max = fmaxf(max, __shfl_xor_sync(simt::kAllLanes, max, 1));
    max = fmaxf(max, __shfl_xor_sync(simt::kAllLanes, max, 2));
    max = fmaxf(max * scale, state.max[half]);
    // A row that sees none of the keys so far.
    const float base = max == -INFINITY ? 0.0f : max;
    shrink[half] = simt::FastExp2(state.max[half] - base);
    state.max[half] = max;
    float sum = 0;
    SIMT_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      SIMT_UNROLL
      for (int e = 0; e < 2; ++e) {
        float& p = score[n][2 * half + e];
        p = simt::FastExp2(p * scale - base);
        sum += p;
      }
    }
    state.sum[half] = state.sum[half] * shrink[half] + sum;
  }
}

SIMT_DEVICE void MaskScores(float (&score)[kKeys / 8][4], int first_key, const RowState& state) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  SIMT_UNROLL
  for (int n = 0; n < kKeys / 8; ++n) {
    SIMT_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int key = first_key + 8 * n + lane % 4 * 2 + e % 2;
      if (key > state.end[e / 2] || key < state.start[e / 2]) score[n][e] = -INFINITY;
    }
  }
}

template <int kHead, int kM, int kWarps>
SIMT_KERNEL((ForwardShape<kHead, kM, kWarps>::kThreads))
Forward(AttentionInputs<BF16> in, AttentionOutputs<BF16> out) {
  using S = ForwardShape<kHead, kM, kWarps>;
  SIMT_DYNAMIC_SHARED(BF16, shared);
  BF16* const keys = shared + S::kRows * S::kRow;
  BF16* const values = keys + 2 * kKeys * S::kRow;
  const AttentionRows& s = in.shape;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarp;
  // The last rows see most keys: they begin first.
  const int64_t first = int64_t{gridDim.x - 1 - blockIdx.x} * S::kRows, head = blockIdx.y;
  const int64_t last = (first + S::kRows < s.rows ? first + S::kRows : s.rows) - 1;
  const int64_t kv = static_cast<int>(blockIdx.y) / s.group, columns = s.head_dim,
                seen = s.past + s.rows;
  const int width = static_cast<int>(columns);
  const RowsInMemory q = {in.q + head * columns, s.heads * columns, s.rows, width};
  const RowsInMemory k = {in.k + kv * columns, s.kv_heads * columns, seen, width};
  const RowsInMemory v = {in.v + kv * columns, s.kv_heads * columns, seen, width};
  const int begin = (s.start == nullptr ? 0 : s.start[first]) / kKeys * kKeys;
  const int last_start = s.start == nullptr ? 0 : s.start[last];
  const int tiles = (static_cast<int>(s.past + last) - begin) / kKeys + 1;
  const int first_seen = static_cast<int>(s.past + first);  // by the block's first row, at most

  LoadTile<S::kRows, kHead, S::kThreads>(q, first, shared);
  LoadTile<kKeys, kHead, S::kThreads>(k, begin, keys);
  LoadTile<kKeys, kHead, S::kThreads>(v, begin, values);
  simt::CopyCommit();

  RowState state[kM];
  float sum[kM][kHead / 8][4] = {};
  uint32_t left[kM][kHead / 16][4];
  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    SIMT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first + (warp * kM + m) * 16 + lane / 4 + 8 * half;
      state[m].end[half] = static_cast<int>(s.past + row);
      state[m].start[half] = s.start == nullptr ? 0 : s.start[row < s.rows ? row : last];
    }
  }
  const float scale = kLog2E * s.scale;
  for (int tile = 0; tile < tiles; ++tile) {
    const int first_key = begin + tile * kKeys;
    const int at = tile % 2 * kKeys * S::kRow;
    if (tile + 1 < tiles) {
      LoadTile<kKeys, kHead, S::kThreads>(k, first_key + kKeys, keys + kKeys * S::kRow - at);
      LoadTile<kKeys, kHead, S::kThreads>(v, first_key + kKeys, values + kKeys * S::kRow - at);
      simt::CopyCommit();
      simt::CopyWait<1>();
    } else {
      simt::CopyWait<0>();
    }
    __syncthreads();
    if (tile == 0) LeftOperands<kHead, kM>(shared, 16 * kM * warp, left);
    float score[kM][kKeys / 8][4] = {};
    AddProductOfTranspose<kHead, kKeys / 16, kM>(left, keys + at, score);
    const bool masked = first_key + kKeys - 1 > first_seen || first_key < last_start;
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) {
      float shrink[2];
      if (masked) MaskScores(score[m], first_key, state[m]);
      Softmax(score[m], scale, state[m], shrink);
      SIMT_UNROLL
      for (int n = 0; n < kHead / 8; ++n) {
        SIMT_UNROLL
        for (int e = 0; e < 4; ++e) sum[m][n][e] *= shrink[e / 2];
      }
    }
    AddProduct<kHead, kKeys / 16, kM>(score, values + at, sum);
    __syncthreads();
  }

  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    float inverse[2];
    SIMT_UNROLL
    for (int half = 0; half < 2; ++half) {
      float total = state[m].sum[half];
      total += __shfl_xor_sync(simt::kAllLanes, total, 1);
      total += __shfl_xor_sync(simt::kAllLanes, total, 2);
      inverse[half] = simt::FastInverse(total);
      const int64_t row = state[m].end[half] - s.past;
      if (out.lse != nullptr && lane % 4 == 0 && row < s.rows) {
        out.lse[head * s.rows + row] = state[m].max[half] * kLn2 + logf(total);
      }
    }
    StoreRows<kHead>(sum[m], inverse, first + (warp * kM + m) * 16, s.rows,
                     out.out + head * columns, s.heads * columns, width);
  }
}

template <int kHead, int kM, int kWarps>
void Run(const Context& context, const AttentionInputs<BF16>& in,
         const AttentionOutputs<BF16>& out) {
  using S = ForwardShape<kHead, kM, kWarps>;
  const dim3 grid(BlocksFor(in.shape.rows, S::kRows), static_cast<unsigned>(in.shape.heads));
  Launch(context, "attention", Forward<kHead, kM, kWarps>, grid, S::kThreads, S::kShared, in, out);
}

}  // namespace

bool TilesFit(const AttentionInputs<BF16>& in, const void* other) {
  return in.shape.head_dim % 8 == 0 && in.shape.head_dim <= 128 && AllAligned16(in.q, in.k, in.v) &&
         Aligned16(other);
}

void ForwardTiles(const Context& context, const AttentionInputs<BF16>& in,
                  const AttentionOutputs<BF16>& out) {
  if (in.shape.head_dim <= 64) return Run<64, 2, 4>(context, in, out);
  Run<128, 1, 8>(context, in, out);
}

}  // namespace tidegate::kernels
