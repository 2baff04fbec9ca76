// Attention backward in bf16 on tensor cores, in two passes that both compute the probabilities
// again from lse: one block for a tile of keys and one key head adds up dK and dV over the rows
// that see them, one for a tile of rows and one head adds up dQ over its keys. Each place has one
// writer.
#include <cmath>

#include "kernels/internal/cuda_attention.h"
#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_tiles.h"
#include "kernels/internal/cuda_vectors.h"

namespace tidegate::kernels {
namespace {

constexpr float kLog2E = 1.44269504088896341f;
constexpr int kWarps = 4, kThreads = kWarps * simt::kWarp;
// By the columns of the tiles: groups of 16 rows that a warp has, rows (or keys) of the block, and
// those of a tile of the other side: fewer where registers are short.
template <int kHead>
struct Shape {
  static constexpr int kM = kHead <= 64 ? 2 : 1;
  static constexpr int kOwn = 16 * kM * kWarps;
  static constexpr int kOther = 32;
  static constexpr size_t kShared =
      sizeof(BF16) * static_cast<size_t>((2 * kOwn + 4 * kOther) * kTileRow<kHead>);
};

// Of the query rows of a tile.
template <int kRows>
struct RowValues {
  float lse[kRows];  // in powers of two
  float delta[kRows];
  int32_t start[kRows];  // past every key where there is no row
};

// The first tile of rows, from `tile` on, of which none sees `key`.
SIMT_DEVICE int64_t EndOfRows(const AttentionRows& s, int64_t tile, int64_t key, int rows) {
  int64_t low = tile, high = (s.rows + rows - 1) / rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (s.start[middle * rows] > key) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// Where each block has one query head instead of a key head's group: its part of dK and dV, as
// floats of [heads, rows, kHead]. Null: blocks add up their groups themselves.
struct PartsOfHeads {
  float* dk;
  float* dv;
};

template <int kHead>
SIMT_KERNEL(kThreads)
KeyGradients(AttentionInputs<BF16> in, AttentionGradients<BF16> g, PartsOfHeads parts) {
  constexpr int kQ = Shape<kHead>::kOther, kM = Shape<kHead>::kM, kOwn = Shape<kHead>::kOwn;
  constexpr int kRow = kTileRow<kHead>;
  SIMT_DYNAMIC_SHARED(BF16, keys);
  SIMT_SHARED(RowValues<kQ>, of_rows, [2]);
  BF16* const values = keys + kOwn * kRow;
  BF16* const queries = values + kOwn * kRow;
  BF16* const slopes = queries + 2 * kQ * kRow;
  const AttentionRows& s = in.shape;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % simt::kWarp;
  const int warp = thread / simt::kWarp, width = static_cast<int>(s.head_dim);
  const int64_t first = int64_t{blockIdx.x} * kOwn, group = parts.dk == nullptr ? s.group : 1;
  const int64_t first_head = blockIdx.y * group, kv = static_cast<int>(first_head) / s.group;
  const int64_t last = (first + kOwn < s.rows ? first + kOwn : s.rows) - 1;
  const int64_t kv_stride = s.kv_heads * s.head_dim, q_stride = s.heads * s.head_dim;
  const int64_t begin = first / kQ, tiles = EndOfRows(s, begin, last, kQ) - begin;
  const int64_t steps = tiles * group;

  const auto load = [&](int64_t step, int buffer) {
    const int64_t head = first_head + step / tiles, row = (begin + step % tiles) * kQ;
    const RowsInMemory q = {in.q + head * s.head_dim, q_stride, s.rows, width};
    const RowsInMemory dout = {g.dout + head * s.head_dim, q_stride, s.rows, width};
    LoadTile<kQ, kHead, kThreads>(q, row, queries + buffer * kQ * kRow);
    LoadTile<kQ, kHead, kThreads>(dout, row, slopes + buffer * kQ * kRow);
    simt::CopyCommit();
    if (thread < kQ) {
      const bool is_row = row + thread < s.rows;
      const int64_t at = head * s.rows + row + thread;
      of_rows[buffer].lse[thread] = is_row ? g.lse[at] * kLog2E : 0.0f;
      of_rows[buffer].delta[thread] = is_row ? g.delta[at] : 0.0f;
      of_rows[buffer].start[thread] = is_row ? s.start[row + thread] : 0x7fffffff;
    }
  };

  LoadTile<kOwn, kHead, kThreads>({in.k + kv * s.head_dim, kv_stride, s.rows, width}, first, keys);
  LoadTile<kOwn, kHead, kThreads>({in.v + kv * s.head_dim, kv_stride, s.rows, width}, first,
                                  values);
  load(0, 0);
  float dk[kM][kHead / 8][4] = {}, dv[kM][kHead / 8][4] = {};
  const int own = 16 * kM * warp;  // the warp's first key of the tile
  const float scale = s.scale, scale2 = scale * kLog2E;
  for (int64_t step = 0; step < steps; ++step) {
    const int buffer = static_cast<int>(step % 2);
    if (step + 1 < steps) {
      load(step + 1, 1 - buffer);
      simt::CopyWait<1>();
    } else {
      simt::CopyWait<0>();
    }
    __syncthreads();
    const BF16* const query = queries + buffer * kQ * kRow;
    const BF16* const slope = slopes + buffer * kQ * kRow;
    const RowValues<kQ>& rows = of_rows[buffer];
    const int first_row = static_cast<int>((begin + step % tiles) * kQ);
    float p[kM][kQ / 8][4] = {}, ds[kM][kQ / 8][4] = {};
    AddProductOfTiles<kHead, kQ / 16, kM>(keys, own, query, p);
    AddProductOfTiles<kHead, kQ / 16, kM>(values, own, slope, ds);
    SIMT_UNROLL
    for (int n = 0; n < kQ / 8; ++n) {
      SIMT_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int column = 8 * n + lane % 4 * 2 + c;
        const int row = first_row + column, start = rows.start[column];
        const float lse = rows.lse[column], delta = rows.delta[column];
        SIMT_UNROLL
        for (int m = 0; m < kM; ++m) {
          SIMT_UNROLL
          for (int e = c; e < 4; e += 2) {
            const int key = static_cast<int>(first) + own + 16 * m + lane / 4 + 8 * (e / 2);
            const bool sees = key <= row && key >= start;
            const float weight = sees ? simt::FastExp2(p[m][n][e] * scale2 - lse) : 0.0f;
            p[m][n][e] = weight;
            ds[m][n][e] = weight * (ds[m][n][e] - delta);
          }
        }
      }
    }
    AddProduct<kHead, kQ / 16, kM>(p, slope, dv);
    AddProduct<kHead, kQ / 16, kM>(ds, query, dk);
    __syncthreads();
  }
  const float of_keys[2] = {scale, scale}, of_values[2] = {1.0f, 1.0f};
  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    const int64_t row = first + own + 16 * m;
    if (parts.dk != nullptr) {
      const int64_t at = first_head * s.rows * kHead;
      StoreFloatRows<kHead>(dk[m], scale, row, s.rows, parts.dk + at);
      StoreFloatRows<kHead>(dv[m], 1.0f, row, s.rows, parts.dv + at);
      continue;
    }
    StoreRows<kHead>(dk[m], of_keys, row, s.rows, g.dk + kv * s.head_dim, kv_stride, width);
    StoreRows<kHead>(dv[m], of_values, row, s.rows, g.dv + kv * s.head_dim, kv_stride, width);
  }
}

template <int kHead>
SIMT_KERNEL(kThreads)
QueryGradients(AttentionInputs<BF16> in, AttentionGradients<BF16> g) {
  constexpr int kK = Shape<kHead>::kOther, kM = Shape<kHead>::kM, kOwn = Shape<kHead>::kOwn;
  constexpr int kRow = kTileRow<kHead>;
  SIMT_DYNAMIC_SHARED(BF16, queries);
  BF16* const slopes = queries + kOwn * kRow;
  BF16* const keys = slopes + kOwn * kRow;
  BF16* const values = keys + 2 * kK * kRow;
  const AttentionRows& s = in.shape;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarp;
  const int width = static_cast<int>(s.head_dim);
  const int64_t first = int64_t{gridDim.x - 1 - blockIdx.x} * kOwn, head = blockIdx.y;
  const int64_t last = (first + kOwn < s.rows ? first + kOwn : s.rows) - 1;
  const int64_t kv = static_cast<int>(blockIdx.y) / s.group;
  const int64_t kv_stride = s.kv_heads * s.head_dim, q_stride = s.heads * s.head_dim;
  const RowsInMemory k = {in.k + kv * s.head_dim, kv_stride, s.rows, width};
  const RowsInMemory v = {in.v + kv * s.head_dim, kv_stride, s.rows, width};
  const int begin = s.start[first] / kK * kK, tiles = (static_cast<int>(last) - begin) / kK + 1;

  LoadTile<kOwn, kHead, kThreads>({in.q + head * s.head_dim, q_stride, s.rows, width}, first,
                                  queries);
  LoadTile<kOwn, kHead, kThreads>({g.dout + head * s.head_dim, q_stride, s.rows, width}, first,
                                  slopes);
  LoadTile<kK, kHead, kThreads>(k, begin, keys);
  LoadTile<kK, kHead, kThreads>(v, begin, values);
  simt::CopyCommit();
  const int own = 16 * kM * warp;  // the warp's first row of the tile
  int row[kM][2], start[kM][2];
  float lse[kM][2], delta[kM][2];
  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    SIMT_UNROLL
    for (int half = 0; half < 2; ++half) {
      row[m][half] = static_cast<int>(first) + own + 16 * m + lane / 4 + 8 * half;
      const int64_t at = row[m][half] < s.rows ? row[m][half] : last;
      start[m][half] = s.start[at];
      lse[m][half] = g.lse[head * s.rows + at] * kLog2E;
      delta[m][half] = g.delta[head * s.rows + at];
    }
  }
  const float scale = s.scale, scale2 = scale * kLog2E;
  float dq[kM][kHead / 8][4] = {};
  uint32_t query[kM][kHead / 16][4], slope[kM][kHead / 16][4];
  for (int tile = 0; tile < tiles; ++tile) {
    const int first_key = begin + tile * kK;
    const int at = tile % 2 * kK * kRow;
    if (tile + 1 < tiles) {
      LoadTile<kK, kHead, kThreads>(k, first_key + kK, keys + kK * kRow - at);
      LoadTile<kK, kHead, kThreads>(v, first_key + kK, values + kK * kRow - at);
      simt::CopyCommit();
      simt::CopyWait<1>();
    } else {
      simt::CopyWait<0>();
    }
    __syncthreads();
    if (tile == 0) {
      LeftOperands<kHead, kM>(queries, own, query);
      LeftOperands<kHead, kM>(slopes, own, slope);
    }
    float p[kM][kK / 8][4] = {}, ds[kM][kK / 8][4] = {};
    AddProductOfTranspose<kHead, kK / 16, kM>(query, keys + at, p);
    AddProductOfTranspose<kHead, kK / 16, kM>(slope, values + at, ds);
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) {
      SIMT_UNROLL
      for (int n = 0; n < kK / 8; ++n) {
        SIMT_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int key = first_key + 8 * n + lane % 4 * 2 + e % 2, half = e / 2;
          const bool sees = key <= row[m][half] && key >= start[m][half];
          const float weight = sees ? simt::FastExp2(p[m][n][e] * scale2 - lse[m][half]) : 0.0f;
          ds[m][n][e] = weight * (ds[m][n][e] - delta[m][half]);
        }
      }
    }
    AddProduct<kHead, kK / 16, kM>(ds, keys + at, dq);
    __syncthreads();
  }
  const float factor[2] = {scale, scale};
  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    StoreRows<kHead>(dq[m], factor, first + own + 16 * m, s.rows, g.dq + head * s.head_dim,
                     q_stride, width);
  }
}

// The heads of each group in order.
template <int kHead>
SIMT_KERNEL(kThreads)
JoinHeads(AttentionRows s, PartsOfHeads parts, BF16* dk, BF16* dv) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x, packs = s.head_dim / kPack;
  if (at >= s.rows * s.kv_heads * packs) return;
  const int64_t column = at % packs * kPack, kv = at / packs % s.kv_heads;
  const int64_t row = at / packs / s.kv_heads;
  float k[kPack] = {}, v[kPack] = {}, more[kPack];
  for (int64_t head = kv * s.group; head < (kv + 1) * s.group; ++head) {
    const int64_t from = (head * s.rows + row) * kHead + column;
    LoadAligned(parts.dk + from, more);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) k[e] += more[e];
    LoadAligned(parts.dv + from, more);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) v[e] += more[e];
  }
  const int64_t to = (row * s.kv_heads + kv) * s.head_dim + column;
  StoreAligned(dk + to, k);
  StoreAligned(dv + to, v);
}

// Blocks of keys below which a key head's group is shared between blocks: there would be too few to
// fill a GPU, and the first of them, whose keys all rows see, would be waited for.
constexpr int64_t kFewBlocks = 512;

template <int kHead>
void Run(const Context& context, const AttentionInputs<BF16>& in,
         const AttentionGradients<BF16>& g) {
  const Workspace::Scope scope(*context.workspace);
  const AttentionRows& s = in.shape;
  const unsigned blocks = BlocksFor(s.rows, Shape<kHead>::kOwn);
  const unsigned heads = static_cast<unsigned>(s.heads);
  if (s.group > 1 && blocks * s.kv_heads < kFewBlocks) {
    const size_t count = static_cast<size_t>(s.heads * s.rows * kHead);
    const PartsOfHeads parts = {context.workspace->Array<float>(count),
                                context.workspace->Array<float>(count)};
    Launch(context, "attention backward", KeyGradients<kHead>, dim3(blocks, heads), kThreads,
           Shape<kHead>::kShared, in, g, parts);
    const int64_t packs = s.rows * s.kv_heads * s.head_dim / kPack;
    Launch(context, "attention backward", JoinHeads<kHead>, BlocksFor(packs, kThreads), kThreads, 0,
           s, parts, g.dk, g.dv);
  } else {
    Launch(context, "attention backward", KeyGradients<kHead>,
           dim3(blocks, static_cast<unsigned>(s.kv_heads)), kThreads, Shape<kHead>::kShared, in, g,
           PartsOfHeads{});
  }
  Launch(context, "attention backward", QueryGradients<kHead>,
         dim3(blocks, static_cast<unsigned>(in.shape.heads)), kThreads, Shape<kHead>::kShared, in,
         g);
}

}  // namespace

void BackwardTiles(const Context& context, const AttentionInputs<BF16>& in,
                   const AttentionGradients<BF16>& gradients) {
  if (in.shape.head_dim <= 64) return Run<64>(context, in, gradients);
  Run<128>(context, in, gradients);
}

}  // namespace tidegate::kernels
