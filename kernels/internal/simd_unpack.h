// Weights that are not held in the activation type, to activations; part of simd_body.h.
#pragma once

#include "kernels/internal/simd_ops.h"
#include "kernels/internal/vec.h"

namespace tidegate::kernels {
namespace {

#if defined(__AVX512F__)
// 32 values from 16 bytes, the first of a pair in the upper half.
TIDEGATE_INLINE void UnpackPairs(const uint8_t* codes, __m512 values, __m512 scale, F* first,
                                 F* second) {
  const __m512i pairs =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m512i upper = _mm512_srli_epi32(pairs, 4);
  *first = (F)_mm512_mul_ps(_mm512_permutexvar_ps(upper, values), scale);
  *second = (F)_mm512_mul_ps(_mm512_permutexvar_ps(pairs, values), scale);  // low 4 bits count
}

TIDEGATE_INLINE void StorePairs(float* out, F first, F second) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  Store(out, (F)_mm512_permutex2var_ps((__m512)first, low, (__m512)second));
  Store(out + kLanes, (F)_mm512_permutex2var_ps((__m512)first, high, (__m512)second));
}

#if defined(__AVX512BF16__)
TIDEGATE_INLINE void StorePairs(uint16_t* out, F first, F second) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)ToBF16(first));
  const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)ToBF16(second)), 16);
  _mm512_storeu_si512(out, _mm512_or_si512(low, high));
}
#endif
#endif

template <typename T>
TIDEGATE_INLINE void StoreOne(T* out, float value) {
  Store(out, Splat(value), 1);
}

template <typename T>
TIDEGATE_INLINE void UnpackBlock(const uint8_t* codes, float scale, int64_t count, T* out) {
  int64_t i = 0;
#if defined(__AVX512F__)
  const __m512 values = _mm512_loadu_ps(kNf4Values.data());
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    F first, second;
    UnpackPairs(codes + i / 2, values, _mm512_set1_ps(scale), &first, &second);
    StorePairs(out + i, first, second);
  }
#endif
  for (; i < count; ++i) {
    const uint8_t pair = codes[i / 2];
    StoreOne(out + i, kNf4Values[i % 2 == 0 ? pair >> 4 : pair & 15] * scale);
  }
}

template <typename T>
void UnpackNf4(const Context& context, const DequantizeArgs& args) {
  const int64_t begin = args.row_begin * args.k, count = args.row_end * args.k - begin;
  T* out = static_cast<T*>(args.out);
  ParallelParts(context.threads, count, kQuantBlock, kLeastElements, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += kQuantBlock) {
      const int64_t left = to - i < kQuantBlock ? to - i : kQuantBlock;
      const int64_t block = (begin + i) / kQuantBlock;
      UnpackBlock(args.view.codes + (begin + i) / 2, BlockScale(args.format, args.view, block),
                  left, out + i);
    }
  });
}

template <typename T>
void UnpackInt8(const Context& context, const DequantizeArgs& args) {
  typedef int8_t Codes __attribute__((vector_size(kLanes)));
  const int8_t* codes = reinterpret_cast<const int8_t*>(args.view.codes);
  T* out = static_cast<T*>(args.out);
  const int64_t least = kLeastElements / args.k + 1;
  ParallelParts(context.threads, args.row_end - args.row_begin, 1, least,
                [&](int64_t from, int64_t to) {
                  for (int64_t row = from; row < to; ++row) {
                    const float scale = RowScale(args.view, args.row_begin + row);
                    const int8_t* in = codes + (args.row_begin + row) * args.k;
                    T* to_row = out + row * args.k;
                    int64_t l = 0;
                    for (; l + kLanes <= args.k; l += kLanes) {
                      const F wide = __builtin_convertvector(LoadBits<Codes>(in + l), F);
                      Store(to_row + l, wide * scale);
                    }
                    for (; l < args.k; ++l) StoreOne(to_row + l, static_cast<float>(in[l]) * scale);
                  }
                });
}

inline void Widen(const Context& context, const DequantizeArgs& args) {
  const uint16_t* in = reinterpret_cast<const uint16_t*>(args.view.codes) + args.row_begin * args.k;
  float* out = static_cast<float*>(args.out);
  const int64_t count = (args.row_end - args.row_begin) * args.k;
  ParallelParts(context.threads, count, kLanes, kLeastElements, [&](int64_t from, int64_t to) {
    ForVectors(from, to, [&](int64_t i, int n) TIDEGATE_LAMBDA {
      Store(out + i, WidenedBF16(in + i, n), n);
    });
  });
}

template <typename T>
void Dequantize(const Context& context, const DequantizeArgs& args) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (args.format == WeightFormat::kBF16) return Widen(context, args);
  }
  if (args.format == WeightFormat::kInt8) return UnpackInt8<T>(context, args);
  UnpackNf4<T>(context, args);
}

}  // namespace
}  // namespace tidegate::kernels
