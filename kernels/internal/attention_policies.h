// What a word of the tiles is: one f32, or a pair of bf16. Only for files compiled with AVX-512
// flags, the second for those with AVX512-bf16 as well.
#pragma once

#include "kernels/internal/avx512_tiles.h"

namespace tidegate::kernels {
namespace {

struct TilesF32 {
  using Elem = float;
  static constexpr int64_t kPerWord = 1;

  static __m512 Madd(__m512 acc, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), acc);
  }
  static __m512i LoadPair(const HeadRows<TilesF32>& in, int64_t row, int64_t d) {
    if (row >= in.rows) return _mm512_setzero_si512();
    return _mm512_loadu_si512(in.data + row * in.stride + d);
  }
  static void Store16(float* out, __m512 x) { _mm512_storeu_ps(out, x); }
  // Word `word` of s [rows][16]'s columns.
  static __m512i LoadColumns(const float* s, int64_t word) {
    return _mm512_loadu_si512(s + word * 16);
  }
  static __m512 Load16(const float* in) { return _mm512_loadu_ps(in); }
  // Rows of a tile are an A operand, and a B operand, as they lie.
  static constexpr bool kInPlace = true;
  static void StoreB(uint32_t* out, int64_t row, int64_t column, __m512 even, __m512 odd) {
    float* at = reinterpret_cast<float*>(out) + row * kTile + column;
    _mm512_storeu_ps(at, even);
    _mm512_storeu_ps(at + kTile, odd);
  }
  static void StoreA(float* out, int64_t row, int64_t column, __m512 even, __m512 odd) {
    _mm512_storeu_ps(out + row * kTile + column, even);
    _mm512_storeu_ps(out + (row + 1) * kTile + column, odd);
  }
  static void StoreAB(float* a, uint32_t*, int64_t row, int64_t column, __m512 even, __m512 odd) {
    StoreA(a, row, column, even, odd);
  }
};

#ifdef __AVX512BF16__
struct TilesBF16 {
  using Elem = uint16_t;
  static constexpr int64_t kPerWord = 2;

  static __m512 Madd(__m512 acc, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  // 0,16,1,17,… : the lower 16 lanes' elements paired with the upper's
  static __m512i Interleave(__m512i pair) {
    const __m512i lanes =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(lanes, pair);
  }
  static __m512i LoadPair(const HeadRows<TilesBF16>& in, int64_t word, int64_t d) {
    const __m256i zero = _mm256_setzero_si256();
    const uint16_t* at = in.data + 2 * word * in.stride + d;
    const __m256i even =
        2 * word < in.rows ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)) : zero;
    const __m256i odd = 2 * word + 1 < in.rows
                            ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + in.stride))
                            : zero;
    return Interleave(_mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1));
  }
  static void Store16(uint16_t* out, __m512 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
  }
  static __m512i LoadColumns(const float* s, int64_t word) {
    const __m512 even = _mm512_loadu_ps(s + word * 32), odd = _mm512_loadu_ps(s + word * 32 + 16);
    return Interleave(reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even)));
  }
  static __m512 Load16(const uint16_t* in) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static constexpr bool kInPlace = false;
  // Rows `row` and `row` + 1 of a tile [keys][64], reduced over keys …
  static void StoreB(uint32_t* out, int64_t row, int64_t column, __m512 even, __m512 odd) {
    const __m512i pair = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
    _mm512_storeu_si512(out + row / 2 * kTile + column, Interleave(pair));
  }
  // … and over queries.
  static void StoreA(uint16_t* out, int64_t row, int64_t column, __m512 even, __m512 odd) {
    const __m512i pair = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
    StoreHalves(out + row * kTile + column, pair);
  }
  static void StoreAB(uint16_t* a, uint32_t* b, int64_t row, int64_t column, __m512 even,
                      __m512 odd) {
    const __m512i pair = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
    StoreHalves(a + row * kTile + column, pair);
    _mm512_storeu_si512(b + row / 2 * kTile + column, Interleave(pair));
  }

 private:
  static void StoreHalves(uint16_t* out, __m512i pair) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(pair));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + kTile),
                        _mm512_extracti64x4_epi64(pair, 1));
  }
};
#endif

}  // namespace
}  // namespace tidegate::kernels
