#include "kernels/internal/head_tile_rows.h"

namespace tidegate::kernels {
namespace {

struct StoreF32 {
  using Elem = float;
  static void StoreMasked(float* out, __mmask16 mask, __m512 x) {
    _mm512_mask_storeu_ps(out, mask, x);
  }
};

}  // namespace

void HeadTileF32Avx512(const HeadTile& tile, int64_t begin, int64_t end) {
  HeadTileRows<StoreF32>(tile, begin, end);
}

}  // namespace tidegate::kernels
