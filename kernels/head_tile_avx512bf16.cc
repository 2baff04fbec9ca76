#include "kernels/internal/head_tile_rows.h"

namespace tidegate::kernels {
namespace {

inline void StoreBF16(uint16_t* out, __mmask16 mask, __m512 x) {
  _mm256_mask_storeu_epi16(out, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}

struct StoreHalf {
  using Elem = uint16_t;
  static void StoreMasked(uint16_t* out, __mmask16 mask, __m512 x) { StoreBF16(out, mask, x); }
};

}  // namespace

void HeadTileBF16Avx512(const HeadTile& tile, int64_t begin, int64_t end) {
  HeadTileRows<StoreHalf>(tile, begin, end);
}

void HeadGradientBF16Avx512(const float* dx, const uint16_t* w, float inverse_sum, float weight,
                            int64_t k, uint16_t* dh) {
  const __m512 inverse = _mm512_set1_ps(inverse_sum), factor = _mm512_set1_ps(weight);
  for (int64_t d = 0; d < k; d += 16) {
    const __mmask16 mask = TailMask(k - d);
    const __m512i bits =
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, w + d)), 16);
    const __m512 g =
        _mm512_fmsub_ps(_mm512_maskz_loadu_ps(mask, dx + d), inverse, _mm512_castsi512_ps(bits));
    StoreBF16(dh + d, mask, _mm512_mul_ps(g, factor));
  }
}

}  // namespace tidegate::kernels
