// The elementwise half of the head: one tile of logits into probabilities, with a running maximum
// and sum a row. The products on both sides of it are matmuls.
#pragma once

#include <cstdint>

namespace tidegate::kernels {

struct HeadTile {
  int64_t rows, columns, k;
  const float* logits;  // [rows, columns]
  void* p;     // [rows, columns] exp(logit − max), float (may alias logits) or bf16; or null
  float* max;  // [rows] in and out
  float* sum;  // [rows] in and out, of exp(logit − max)
  float* dx;   // [rows, k] scaled when max grows; null where p is
};

// All of a tile's rows from `begin` to `end`. Rows do not influence each other.
void HeadTileF32Portable(const HeadTile& tile, int64_t begin, int64_t end);
void HeadTileF32Avx512(const HeadTile& tile, int64_t begin, int64_t end);
void HeadTileBF16Avx512(const HeadTile& tile, int64_t begin, int64_t end);

// dh = weight · (dx / sum − w), one row of k elements.
void HeadGradientBF16Avx512(const float* dx, const uint16_t* w, float inverse_sum, float weight,
                            int64_t k, uint16_t* dh);

}  // namespace tidegate::kernels
