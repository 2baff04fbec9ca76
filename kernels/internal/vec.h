// Vectors as wide as the instruction set this file is compiled for (GCC vector extensions), and
// activations loaded into them as float. Everything is in an unnamed namespace and always inlined:
// nothing compiled for AVX-512 can be what the linker keeps for another file.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/internal/threads.h"

#define TIDEGATE_INLINE inline __attribute__((always_inline))
#define TIDEGATE_LAMBDA __attribute__((always_inline))

namespace tidegate::kernels {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float F __attribute__((vector_size(kLanes * 4)));
typedef int32_t I __attribute__((vector_size(kLanes * 4)));
typedef uint32_t U __attribute__((vector_size(kLanes * 4)));
typedef uint64_t Q __attribute__((vector_size(kLanes * 4)));  // kLanes / 2 of them
typedef uint16_t H __attribute__((vector_size(kLanes * 2)));
typedef float HalfF __attribute__((vector_size(kLanes * 2)));
typedef double D __attribute__((vector_size(kLanes * 4)));  // kLanes / 2 of them

TIDEGATE_INLINE F Splat(float x) { return F{} + x; }

template <typename V, typename T>
TIDEGATE_INLINE V LoadBits(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

TIDEGATE_INLINE F Load(const float* p) { return LoadBits<F>(p); }
TIDEGATE_INLINE void Store(float* p, F v) { __builtin_memcpy(p, &v, sizeof(v)); }

#if defined(__AVX512BF16__)
// By the instruction: GCC 12 splits __builtin_convertvector in two halves.
TIDEGATE_INLINE F FromBF16(H h) { return (F)((U)_mm512_cvtepu16_epi32((__m256i)h) << 16); }
TIDEGATE_INLINE F Load(const uint16_t* p) { return FromBF16(LoadBits<H>(p)); }
// To nearest, ties to even; NaN quiet; subnormals to zero, as all bf16 instructions have it.
TIDEGATE_INLINE H ToBF16(F v) { return (H)_mm512_cvtneps_pbh((__m512)v); }
TIDEGATE_INLINE void Store(uint16_t* p, F v) {
  const H h = ToBF16(v);
  __builtin_memcpy(p, &h, sizeof(h));
}
#endif

// The first n lanes, the others zero; n == kLanes costs nothing when it is a constant.
template <typename T>
TIDEGATE_INLINE F Load(const T* p, int n) {
  if (n == kLanes) return Load(p);
  T lanes[kLanes] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
  return Load(lanes);
}
template <typename T>
TIDEGATE_INLINE void Store(T* p, F v, int n) {
  if (n == kLanes) return Store(p, v);
  T lanes[kLanes];
  Store(lanes, v);
  __builtin_memcpy(p, lanes, static_cast<size_t>(n) * sizeof(T));
}

// The first n of as many bf16 as there are lanes, the others zero, with any instruction set.
TIDEGATE_INLINE F WidenedBF16(const uint16_t* p, int n = kLanes) {
  H half = {};
  if (n == kLanes) {
    half = LoadBits<H>(p);
  } else {
    __builtin_memcpy(&half, p, static_cast<size_t>(n) * sizeof(uint16_t));
  }
#if defined(__AVX512F__)
  return (F)((U)_mm512_cvtepu16_epi32((__m256i)half) << 16);
#elif defined(__AVX2__)
  return (F)((U)_mm256_cvtepu16_epi32((__m128i)half) << 16);
#else
  return (F)(__builtin_convertvector(half, U) << 16);
#endif
}

// v as an activation of type T can hold it.
template <typename T>
TIDEGATE_INLINE F RoundTo(F v) {
#if defined(__AVX512BF16__)
  if constexpr (sizeof(T) == sizeof(uint16_t)) return FromBF16(ToBF16(v));
#endif
  return v;
}

TIDEGATE_INLINE float Sum(F v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
#if defined(__AVX2__)
  __m128 x = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
#else
  __m128 x = (__m128)v;
#endif
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
#endif
}

TIDEGATE_INLINE F Sqrt(F v) {
#if defined(__AVX512F__)
  return (F)_mm512_sqrt_ps((__m512)v);
#elif defined(__AVX2__)
  return (F)_mm256_sqrt_ps((__m256)v);
#else
  return (F)_mm_sqrt_ps((__m128)v);
#endif
}

// The 64-bit products of the lower halves of the lanes.
TIDEGATE_INLINE Q MultiplyLow(Q a, Q b) {
#if defined(__AVX512F__)
  return (Q)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (Q)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#else
  return (Q)_mm_mul_epu32((__m128i)a, (__m128i)b);
#endif
}

// e^x within 2 units in the last place for |x| <= 87; clamped there.
TIDEGATE_INLINE F Exp(F x) {
  x = x < -87.0f ? Splat(-87.0f) : x;
  x = x > 87.0f ? Splat(87.0f) : x;
  // Adding 1.5·2^23 rounds to an integer, which then stands in the low bits.
  const F shifted = x * 1.44269504f + 12582912.0f;
  const F n = shifted - 12582912.0f;
  F r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  F p = Splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  return (F)((I)p + ((I)shifted << 23));
}

// body(i, n) for each vector of [begin, end): n is kLanes but for the last.
template <typename Body>
TIDEGATE_INLINE void ForVectors(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, kLanes);
  if (i < end) body(i, static_cast<int>(end - i));
}

// part(begin, end) for `threads` even parts of [0, count), cut at multiples of `grain`. Fewer than
// `least` a thread are not worth waking one.
template <typename Part>
void ParallelParts(int threads, int64_t count, int64_t grain, int64_t least, const Part& part) {
  if (threads <= 1 || count < 2 * least) {
    if (count > 0) part(0, count);
    return;
  }
  const ScopedThreads scoped(threads);
  const int64_t share = (count + threads - 1) / threads;
  const int64_t size = (share + grain - 1) / grain * grain;
#pragma omp parallel for schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    const int64_t begin = t * size;
    const int64_t end = begin + size < count ? begin + size : count;
    if (begin < end) part(begin, end);
  }
}

constexpr int64_t kLeastElements = 8192;

}  // namespace
}  // namespace tidegate::kernels
