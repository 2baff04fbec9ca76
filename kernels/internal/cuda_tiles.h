// Tiles of bf16 in shared memory for the tensor cores: rows of kColumns elements, 16 bytes apart
// from a multiple of 128 so that eight rows lie in different banks.
#pragma once

#include "kernels/internal/bf16.h"
#include "kernels/internal/simt.h"

namespace tidegate::kernels {

template <int kColumns>
inline constexpr int kTileRow = kColumns + 8;

// Rows of a matrix with heads: row i of a head is at base + i · stride.
struct RowsInMemory {
  const BF16* base;
  int64_t stride, rows;
  int columns;  // a multiple of 8, at most the tile's
};

// Begins copying rows first … first+kRows-1 into the tile; zeros where the matrix ends. All threads
// of the block.
template <int kRows, int kColumns, int kThreads>
SIMT_DEVICE void LoadTile(const RowsInMemory& from, int64_t first, BF16* tile) {
  constexpr int kChunks = kColumns / 8;
  static_assert(kRows * kChunks % kThreads == 0);
  SIMT_UNROLL
  for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    const int row = at / kChunks, column = at % kChunks * 8;
    const bool wanted = first + row < from.rows && column < from.columns;
    const BF16* source = wanted ? from.base + (first + row) * from.stride + column : from.base;
    simt::CopyAsync16(tile + row * kTileRow<kColumns> + column, source, wanted);
  }
}

// The 16×16 left operand at (row, column) of the tile.
template <int kColumns>
SIMT_DEVICE void LeftOperand(const BF16* tile, int row, int column, uint32_t (&a)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  simt::LoadMatrix4(a, tile + (row + lane % 16) * kTileRow<kColumns> + column + lane / 16 * 8);
}

// Right operands of two 16×8 products: of the transpose of the tile (its rows are the product's
// columns), at rows row … row+15 and columns column … column+15: {b[0], b[1]} and {b[2], b[3]}.
template <int kColumns>
SIMT_DEVICE void RightOperandOfTranspose(const BF16* tile, int row, int column, uint32_t (&b)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  simt::LoadMatrix4(
      b, tile + (row + lane / 16 * 8 + lane % 8) * kTileRow<kColumns> + column + lane / 8 % 2 * 8);
}

// The same of the tile as it lies: columns column … column+15 are those of the two products.
template <int kColumns>
SIMT_DEVICE void RightOperand(const BF16* tile, int row, int column, uint32_t (&b)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  simt::LoadMatrix4Transposed(
      b, tile + (row + lane % 16) * kTileRow<kColumns> + column + lane / 16 * 8);
}

// Two neighbouring 16×8 results as a left operand.
SIMT_DEVICE void LeftOperandOf(const float (&first)[4], const float (&second)[4],
                               uint32_t (&a)[4]) {
  a[0] = simt::PackBF16(first[0], first[1]);
  a[1] = simt::PackBF16(first[2], first[3]);
  a[2] = simt::PackBF16(second[0], second[1]);
  a[3] = simt::PackBF16(second[2], second[3]);
}

// The left operands of kM groups of 16 rows, from `row` on.
template <int kColumns, int kM>
SIMT_DEVICE void LeftOperands(const BF16* tile, int row, uint32_t (&left)[kM][kColumns / 16][4]) {
  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    SIMT_UNROLL
    for (int depth = 0; depth < kColumns / 16; ++depth) {
      LeftOperand<kColumns>(tile, row + 16 * m, 16 * depth, left[m][depth]);
    }
  }
}

// One depth of the product below.
template <int kColumns, int kPairs, int kM>
SIMT_DEVICE void AddDepthOfTranspose(const uint32_t (&a)[kM][4], int depth, const BF16* tile,
                                     float (&result)[kM][2 * kPairs][4]) {
  SIMT_UNROLL
  for (int pair = 0; pair < kPairs; ++pair) {
    uint32_t b[4];
    RightOperandOfTranspose<kColumns>(tile, 16 * pair, 16 * depth, b);
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) {
      simt::Mma16816(result[m][2 * pair], a[m], b[0], b[1]);
      simt::Mma16816(result[m][2 * pair + 1], a[m], b[2], b[3]);
    }
  }
}

// result[16·kM × 16·kPairs] += left · tileᵀ, rows 0 … 16·kPairs-1 of the tile: each right operand
// is loaded once for all kM groups.
template <int kColumns, int kPairs, int kM>
SIMT_DEVICE void AddProductOfTranspose(const uint32_t (&left)[kM][kColumns / 16][4],
                                       const BF16* tile, float (&result)[kM][2 * kPairs][4]) {
  SIMT_UNROLL
  for (int depth = 0; depth < kColumns / 16; ++depth) {
    uint32_t a[kM][4];
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) {
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) a[m][i] = left[m][depth][i];
    }
    AddDepthOfTranspose<kColumns, kPairs, kM>(a, depth, tile, result);
  }
}

// The same with the left operands taken from rows `row` … of a tile as they are needed.
template <int kColumns, int kPairs, int kM>
SIMT_DEVICE void AddProductOfTiles(const BF16* own, int row, const BF16* tile,
                                   float (&result)[kM][2 * kPairs][4]) {
  SIMT_UNROLL
  for (int depth = 0; depth < kColumns / 16; ++depth) {
    uint32_t a[kM][4];
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) LeftOperand<kColumns>(own, row + 16 * m, 16 * depth, a[m]);
    AddDepthOfTranspose<kColumns, kPairs, kM>(a, depth, tile, result);
  }
}

// result[16·kM × kColumns] += left (16·kM × 16·kDepth, as results of products) · tile.
template <int kColumns, int kDepth, int kM>
SIMT_DEVICE void AddProduct(const float (&left)[kM][2 * kDepth][4], const BF16* tile,
                            float (&result)[kM][kColumns / 8][4]) {
  SIMT_UNROLL
  for (int depth = 0; depth < kDepth; ++depth) {
    uint32_t a[kM][4];
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) {
      LeftOperandOf(left[m][2 * depth], left[m][2 * depth + 1], a[m]);
    }
    SIMT_UNROLL
    for (int pair = 0; pair < kColumns / 16; ++pair) {
      uint32_t b[4];
      RightOperand<kColumns>(tile, 16 * depth, 16 * pair, b);
      SIMT_UNROLL
      for (int m = 0; m < kM; ++m) {
        simt::Mma16816(result[m][2 * pair], a[m], b[0], b[1]);
        simt::Mma16816(result[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// The warp's 16 rows of a result, times factor[0] (rows 0 … 7) and factor[1], as rows first … of a
// matrix with heads.
template <int kColumns>
SIMT_DEVICE void StoreRows(const float (&result)[kColumns / 8][4], const float (&factor)[2],
                           int64_t first, int64_t rows, BF16* base, int64_t stride, int columns) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  SIMT_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first + lane / 4 + 8 * half;
    if (row >= rows) continue;
    SIMT_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      const int column = 8 * n + lane % 4 * 2;
      if (column >= columns) continue;
      *reinterpret_cast<uint32_t*>(base + row * stride + column) = simt::PackBF16(
          result[n][2 * half] * factor[half], result[n][2 * half + 1] * factor[half]);
    }
  }
}

// The same to floats, where all columns of the tile have a place.
template <int kColumns>
SIMT_DEVICE void StoreFloatRows(const float (&result)[kColumns / 8][4], float factor, int64_t first,
                                int64_t rows, float* base) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  SIMT_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first + lane / 4 + 8 * half;
    if (row >= rows) continue;
    SIMT_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      float* to = base + row * kColumns + 8 * n + lane % 4 * 2;
      to[0] = result[n][2 * half] * factor;
      to[1] = result[n][2 * half + 1] * factor;
    }
  }
}

}  // namespace tidegate::kernels
