// Building blocks of the tiled AVX-512 kernels: one micro-kernel for every product, transposes of
// 32-bit words, 2^x and ln x.
//
// Only for files compiled with AVX-512 flags. Everything has internal linkage and nothing of std::
// is used: an inline function that leaked from such a file could be the copy the linker keeps.
//
// A "word" is 32 bits: one f32, or two neighbouring bf16 along the reduced axis. A product is
//   C[rows][16·V] (f32) += A[rows][steps words] · B[steps][16·V words]
// with one word of A broadcast against a row of B. Policy P says what a word is:
// (attention_policies.h).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tidegate::kernels {
namespace {

constexpr int64_t kTile = 64;  // queries and keys a tile; four vectors

constexpr float kLog2E = 1.44269504f;

enum class Init { kZero, kAdd, kScale };  // C starts as 0, as C, or as C times a factor per column

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

// A's word as all lanes.
inline __m512i BroadcastWord(const char* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm512_set1_epi32(word);
}

struct AMatrix {
  const void* data;
  int64_t stride;  // bytes between rows
};
struct BMatrix {
  const void* data;
  int64_t stride;  // words between rows
};
struct CMatrix {
  float* data;
  int64_t stride;      // floats between rows
  const float* scale;  // [columns], for Init::kScale
};

// R rows by 16·V columns in registers. g++ spills the accumulators unless every loop over them is
// unrolled.
template <class P, Init kInit, int R, int V>
inline void MicroTile(int64_t steps, AMatrix a, BMatrix b, CMatrix c) {
  __m512 acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if constexpr (kInit == Init::kZero) {
        acc[r][v] = _mm512_setzero_ps();
      } else {
        acc[r][v] = _mm512_loadu_ps(c.data + r * c.stride + 16 * v);
        if constexpr (kInit == Init::kScale) {
          acc[r][v] = _mm512_mul_ps(acc[r][v], _mm512_loadu_ps(c.scale + 16 * v));
        }
      }
    }
  }
  const char* a_row = static_cast<const char*>(a.data);
  const char* b_row = static_cast<const char*>(b.data);
  for (int64_t s = 0; s < steps; ++s) {
    __m512i bv[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) bv[v] = _mm512_loadu_si512(b_row + 64 * v);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512i word = BroadcastWord(a_row + r * a.stride);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = P::Madd(acc[r][v], word, bv[v]);
    }
    a_row += 4;
    b_row += 4 * b.stride;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(c.data + r * c.stride + 16 * v, acc[r][v]);
  }
}

template <class P, Init kInit, int V>
inline void ProductColumns(int64_t rows, int64_t steps, AMatrix a, BMatrix b, CMatrix c) {
  // 24 accumulators of 32 registers; a single column needs as many rows to hide the latency.
  constexpr int kRows = 6;
  const char* a_data = static_cast<const char*>(a.data);
  int64_t r = 0;
  if constexpr (V == 1) {
    for (; r + 2 * kRows <= rows; r += 2 * kRows) {
      MicroTile<P, kInit, 2 * kRows, V>(steps, {a_data + r * a.stride, a.stride}, b,
                                        {c.data + r * c.stride, c.stride, c.scale});
    }
  }
  for (; r + kRows <= rows; r += kRows) {
    MicroTile<P, kInit, kRows, V>(steps, {a_data + r * a.stride, a.stride}, b,
                                  {c.data + r * c.stride, c.stride, c.scale});
  }
  const AMatrix a_rest = {a_data + r * a.stride, a.stride};
  const CMatrix c_rest = {c.data + r * c.stride, c.stride, c.scale};
  switch (rows - r) {
    case 1:
      return MicroTile<P, kInit, 1, V>(steps, a_rest, b, c_rest);
    case 2:
      return MicroTile<P, kInit, 2, V>(steps, a_rest, b, c_rest);
    case 3:
      return MicroTile<P, kInit, 3, V>(steps, a_rest, b, c_rest);
    case 4:
      return MicroTile<P, kInit, 4, V>(steps, a_rest, b, c_rest);
    case 5:
      return MicroTile<P, kInit, 5, V>(steps, a_rest, b, c_rest);
    default:
      return;
  }
}

// columns: a multiple of 16.
template <class P, Init kInit>
inline void Product(int64_t rows, int64_t columns, int64_t steps, AMatrix a, BMatrix b, CMatrix c) {
  const char* b_data = static_cast<const char*>(b.data);
  int64_t n = 0;
  for (; n + 64 <= columns; n += 64) {
    ProductColumns<P, kInit, 4>(rows, steps, a, {b_data + 4 * n, b.stride},
                                {c.data + n, c.stride, c.scale + n});
  }
  const BMatrix b_rest = {b_data + 4 * n, b.stride};
  const CMatrix c_rest = {c.data + n, c.stride, c.scale + n};
  switch ((columns - n) / 16) {
    case 1:
      return ProductColumns<P, kInit, 1>(rows, steps, a, b_rest, c_rest);
    case 2:
      return ProductColumns<P, kInit, 2>(rows, steps, a, b_rest, c_rest);
    case 3:
      return ProductColumns<P, kInit, 3>(rows, steps, a, b_rest, c_rest);
    default:
      return;
  }
}

// What multiplies tiles: this, or AMX (amx_products.h). With kWholeTiles, operands must have whole
// tiles of rows.
struct VectorProducts {
  static constexpr bool kWholeTiles = false;
  struct Scope {
    Scope() {}
    ~Scope() {}
  };
  template <class P, Init kInit>
  static void Run(int64_t rows, int64_t columns, int64_t steps, AMatrix a, BMatrix b, CMatrix c) {
    Product<P, kInit>(rows, columns, steps, a, b, c);
  }
};

// x[i] lane j becomes x[j] lane i.
inline void Transpose16(__m512i x[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    x[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    x[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    x[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(x[i], x[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(x[i], x[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    x[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    x[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    x[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

// Rows of one head inside [t, heads, head_dim].
template <class P>
struct HeadRows {
  const typename P::Elem* data;  // first row
  int64_t stride;                // elements between rows
  int64_t rows;                  // those that exist; the others read as zero
};

// out[s][c] = word s of row c, for `columns` (a multiple of 16) rows: a B operand reduced over the
// head's elements.
template <class P>
inline void TransposeWords(HeadRows<P> in, int64_t words, int64_t columns, uint32_t* out) {
  for (int64_t c = 0; c < columns; c += 16) {
    for (int64_t s = 0; s < words; s += 16) {
      const int64_t n = Min(16, words - s);
      const __mmask16 mask = static_cast<__mmask16>((1u << n) - 1);
      __m512i x[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        x[i] = c + i < in.rows
                   ? _mm512_maskz_loadu_epi32(mask, in.data + (c + i) * in.stride + s * P::kPerWord)
                   : _mm512_setzero_si512();
      }
      Transpose16(x);
      for (int i = 0; i < n; ++i) _mm512_storeu_si512(out + (s + i) * columns + c, x[i]);
    }
  }
}

// out[w][d] = elements d of the kPerWord rows of word w: a B operand reduced over rows.
template <class P>
inline void InterleaveRows(HeadRows<P> in, int64_t words, int64_t head_dim, uint32_t* out) {
  for (int64_t w = 0; w < words; ++w) {
    for (int64_t d = 0; d < head_dim; d += 16) {
      _mm512_storeu_si512(out + w * head_dim + d, P::LoadPair(in, w, d));
    }
  }
}

// out[r] = the rows, and zeros up to `total`.
template <class P>
inline void CopyRows(HeadRows<P> in, int64_t total, int64_t head_dim, typename P::Elem* out) {
  const size_t bytes = static_cast<size_t>(head_dim) * sizeof(typename P::Elem);
  for (int64_t r = 0; r < total; ++r) {
    typename P::Elem* row = out + r * head_dim;
    if (r < in.rows) {
      __builtin_memcpy(row, in.data + r * in.stride, bytes);
    } else {
      __builtin_memset(row, 0, bytes);
    }
  }
}

// out[d][w] of the same words: an A operand reduced over rows. stride: words between rows of out.
// words: a multiple of 16.
template <class P>
inline void TransposeRows(HeadRows<P> in, int64_t words, int64_t head_dim, uint32_t* out,
                          int64_t stride) {
  for (int64_t w = 0; w < words; w += 16) {
    for (int64_t d = 0; d < head_dim; d += 16) {
      __m512i x[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) x[i] = P::LoadPair(in, w + i, d);
      Transpose16(x);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + (d + i) * stride + w, x[i]);
    }
  }
}

// out[c][d] = in[d][c] · factor[c] for c < rows; in has kTile columns.
template <class P>
inline void StoreTransposed(const float* in, const float* factor, int64_t rows, int64_t head_dim,
                            typename P::Elem* out, int64_t stride) {
  for (int64_t c = 0; c < rows; c += 16) {
    const __m512 f = _mm512_loadu_ps(factor + c);
    for (int64_t d = 0; d < head_dim; d += 16) {
      __m512i x[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        x[i] = _mm512_castps_si512(_mm512_mul_ps(_mm512_loadu_ps(in + (d + i) * kTile + c), f));
      }
      Transpose16(x);
      const int64_t n = Min(16, rows - c);
      for (int64_t i = 0; i < n; ++i) {
        P::Store16(out + (c + i) * stride + d, _mm512_castsi512_ps(x[i]));
      }
    }
  }
}

// 2^x for x <= 128, relative error 2e-7; 0 below -126 (no denormals), NaN stays.
inline __m512 Exp2(__m512 x) {
  const __m512 r = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
  __m512 p = _mm512_set1_ps(1.8775767e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.9893397e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5826318e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4015361e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9315308e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.9999994e-1f));
  const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(normal, p, x);
}

// ln x for positive normal x (Cephes' logf).
inline __m512 Log(__m512 x) {
  // mantissa in [sqrt(1/2), sqrt(2)) and the exponent that goes with it
  __m512 m = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
  __m512 e = _mm512_getexp_ps(x);
  const __mmask16 high = _mm512_cmp_ps_mask(m, _mm512_set1_ps(1.41421356f), _CMP_GE_OQ);
  m = _mm512_mask_mul_ps(m, high, m, _mm512_set1_ps(0.5f));
  e = _mm512_mask_add_ps(e, high, e, _mm512_set1_ps(1.0f));
  const __m512 f = _mm512_sub_ps(m, _mm512_set1_ps(1.0f));
  const __m512 z = _mm512_mul_ps(f, f);
  __m512 p = _mm512_set1_ps(7.0376836292e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(-1.1514610310e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.1676998740e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(-1.2420140846e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.4249322787e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(-1.6668057665e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.0000714765e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(-2.4999993993e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(3.3333331174e-1f));
  p = _mm512_mul_ps(_mm512_mul_ps(p, f), z);
  p = _mm512_fmadd_ps(e, _mm512_set1_ps(-2.12194440e-4f), p);
  p = _mm512_fnmadd_ps(z, _mm512_set1_ps(0.5f), p);
  return _mm512_fmadd_ps(e, _mm512_set1_ps(0.693359375f), _mm512_add_ps(f, p));
}

}  // namespace
}  // namespace tidegate::kernels
