// The products of the attention tiles by AMX: the same operands as avx512_tiles.h has (a word is a
// pair of bf16), sixteen rows by sixteen words a tile.
//
// Only for files compiled with AVX512-bf16 and AMX flags; internal linkage (see avx512_tiles.h).
#pragma once

#include "kernels/internal/amx_scope.h"
#include "kernels/internal/attention_policies.h"

namespace tidegate::kernels {
namespace {

// Rows, columns and words must be multiples of 32, 32 and 16: operands are padded to that.
struct AmxProducts {
  static constexpr bool kWholeTiles = true;

  // Every thread needs one around its products.
  using Scope = AmxScope;

  template <class P, Init kInit>
  static void Run(int64_t rows, int64_t columns, int64_t steps, AMatrix a, BMatrix b, CMatrix c) {
    if constexpr (kInit == Init::kScale) ScaleColumns(rows, columns, c);
    BeforeTileLoads();
    for (int64_t n = 0; n < columns; n += 32) {
      for (int64_t r = 0; r < rows; r += 32) {
        Block<kInit>(steps, static_cast<const char*>(a.data) + r * a.stride, a.stride,
                     static_cast<const char*>(b.data) + 4 * n, 4 * b.stride,
                     c.data + r * c.stride + n, 4 * c.stride);
      }
    }
  }

 private:
  // 32 × 32 of C; strides in bytes.
  template <Init kInit>
  static void Block(int64_t steps, const char* a, int64_t a_stride, const char* b, int64_t b_stride,
                    float* c, int64_t c_stride) {
    float* c_low = c + 4 * c_stride;  // 16 rows further, in floats
    if constexpr (kInit == Init::kZero) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else {
      _tile_loadd(0, c, c_stride);
      _tile_loadd(1, c + 16, c_stride);
      _tile_loadd(2, c_low, c_stride);
      _tile_loadd(3, c_low + 16, c_stride);
    }
    for (int64_t s = 0; s < steps; s += 16) {
      _tile_loadd(4, a + 4 * s, a_stride);
      _tile_loadd(6, b + s * b_stride, b_stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + s * b_stride + 64, b_stride);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a + 4 * s + 16 * a_stride, a_stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_stride);
    _tile_stored(1, c + 16, c_stride);
    _tile_stored(2, c_low, c_stride);
    _tile_stored(3, c_low + 16, c_stride);
  }

  static void ScaleColumns(int64_t rows, int64_t columns, CMatrix c) {
    for (int64_t n = 0; n < columns; n += 16) {
      const __m512 factor = _mm512_loadu_ps(c.scale + n);
      const __m512 one = _mm512_set1_ps(1.0f);
      if (_mm512_cmp_ps_mask(factor, one, _CMP_NEQ_UQ) == 0) continue;
      for (int64_t r = 0; r < rows; ++r) {
        float* at = c.data + r * c.stride + n;
        _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factor));
      }
    }
  }
};

}  // namespace
}  // namespace tidegate::kernels
