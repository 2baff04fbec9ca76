// The AVX-512 tile kernel of the head, over policies that store a vector of probabilities. Only for
// files compiled with AVX-512 flags.
#pragma once

#include "kernels/internal/avx512_tiles.h"
#include "kernels/internal/head_tile.h"

namespace tidegate::kernels {
namespace {

inline __mmask16 TailMask(int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

inline float RowMax(const float* row, int64_t n, float start) {
  __m512 max = _mm512_set1_ps(start);
  for (int64_t j = 0; j < n; j += 16) {
    const __mmask16 mask = TailMask(n - j);
    max = _mm512_mask_max_ps(max, mask, max, _mm512_maskz_loadu_ps(mask, row + j));
  }
  return _mm512_reduce_max_ps(max);
}

inline void ScaleRow(float factor, float* row, int64_t n) {
  const __m512 f = _mm512_set1_ps(factor);
  for (int64_t d = 0; d < n; d += 16) {
    const __mmask16 mask = TailMask(n - d);
    _mm512_mask_storeu_ps(row + d, mask, _mm512_mul_ps(f, _mm512_maskz_loadu_ps(mask, row + d)));
  }
}

// P::StoreMasked(Elem*, mask, vector)
template <class P>
inline void HeadTileRows(const HeadTile& tile, int64_t begin, int64_t end) {
  const __m512 log2e = _mm512_set1_ps(kLog2E);
  for (int64_t i = begin; i < end; ++i) {
    const float* logits = tile.logits + i * tile.columns;
    typename P::Elem* p = static_cast<typename P::Elem*>(tile.p);
    const float max = RowMax(logits, tile.columns, tile.max[i]);
    const __m512 wide_max = _mm512_set1_ps(max);
    __m512 sums = _mm512_setzero_ps();
    for (int64_t j = 0; j < tile.columns; j += 16) {
      const __mmask16 mask = TailMask(tile.columns - j);
      const __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, logits + j), wide_max);
      const __m512 e = Exp2(_mm512_mul_ps(x, log2e));
      sums = _mm512_mask_add_ps(sums, mask, sums, e);
      if (p) P::StoreMasked(p + i * tile.columns + j, mask, e);
    }
    float factor = 1.0f;
    if (max != tile.max[i]) {
      const __m512 grown = _mm512_mul_ps(_mm512_set1_ps(tile.max[i] - max), log2e);
      factor = _mm512_cvtss_f32(Exp2(grown));
      if (tile.dx) ScaleRow(factor, tile.dx + i * tile.k, tile.k);
    }
    tile.sum[i] = tile.sum[i] * factor + _mm512_reduce_add_ps(sums);
    tile.max[i] = max;
  }
}

}  // namespace
}  // namespace tidegate::kernels
