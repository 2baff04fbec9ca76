// A few rows times a weight matrix, bound by reading the weights once; part of simd_body.h.
#pragma once

#include "kernels/internal/simd_ops.h"
#include "kernels/internal/vec.h"

namespace tidegate::kernels {
namespace {

// What a step of the inner loop reads of a row.
template <typename T>
struct Operand;

template <>
struct Operand<float> {
  static constexpr int kStep = kLanes;
  typedef F Value;
  static TIDEGATE_INLINE F Read(const float* p) { return Load(p); }
  static TIDEGATE_INLINE F Read(const uint16_t* p) { return WidenedBF16(p); }
  static TIDEGATE_INLINE F Dot(F sum, F a, F b) { return sum + a * b; }
};

#if defined(__AVX512BF16__)
template <>
struct Operand<uint16_t> {
  static constexpr int kStep = 2 * kLanes;
  typedef __m512bh Value;
  static TIDEGATE_INLINE __m512bh Read(const uint16_t* p) { return (__m512bh)LoadBits<U>(p); }
  static TIDEGATE_INLINE F Dot(F sum, __m512bh a, __m512bh b) {
    return (F)_mm512_dpbf16_ps((__m512)sum, a, b);
  }
};
#endif

// The first n elements of a step, the others zero. W is T, or bf16 to be widened to T.
template <typename T, typename W>
TIDEGATE_INLINE typename Operand<T>::Value ReadPart(const W* p, int64_t n) {
#if defined(__AVX512BF16__)
  if constexpr (sizeof(T) == sizeof(uint16_t)) {
    return (__m512bh)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << n) - 1), p);
  }
#endif
  W lanes[Operand<T>::kStep] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(W));
  return Operand<T>::Read(lanes);
}

// As far ahead as covers the latency of memory at full bandwidth, into the second-level cache: the
// first has too few lines under way at once (32 against 37 GB/s on two cores).
constexpr int64_t kPrefetchBytes = 16384;

// out[i][r] = x[i]·w[r] for M rows of x and R rows of w, the same bits for any M and R.
template <typename T, typename W, int M, int R, bool kFirst>
TIDEGATE_INLINE void DotRows(const T* x, const W* w, int64_t k, float (*out)[kLanes]) {
  constexpr int kStep = Operand<T>::kStep;
  F sum[M][R] = {};
  int64_t l = 0;
  for (; l + kStep <= k; l += kStep) {
    typename Operand<T>::Value left[M];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) left[i] = Operand<T>::Read(x + i * k + l);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const W* p = w + r * k + l;
      if (kFirst) __builtin_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes, 0, 2);
      const typename Operand<T>::Value right = Operand<T>::Read(p);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) sum[i][r] = Operand<T>::Dot(sum[i][r], left[i], right);
    }
  }
  if (l < k) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const typename Operand<T>::Value right = ReadPart<T>(w + r * k + l, k - l);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) {
        sum[i][r] = Operand<T>::Dot(sum[i][r], ReadPart<T>(x + i * k + l, k - l), right);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) out[i][r] = Sum(sum[i][r]);
  }
}

// Rows i to i + M of y, columns j to j + rows.
template <typename T, typename Out, typename W, int M, bool kFirst>
TIDEGATE_INLINE void GemvTile(const GemvArgs& args, int64_t i, int64_t j, int rows) {
  const int64_t k = args.k;
  const T* x = static_cast<const T*>(args.x) + i * k;
  const W* w = static_cast<const W*>(args.w) + j * k;
  float out[M][kLanes];
  if (rows == 4) {
    DotRows<T, W, M, 4, kFirst>(x, w, k, out);
  } else {
    for (int r = 0; r < rows; ++r) {
      float one[M][kLanes];
      DotRows<T, W, M, 1, kFirst>(x, w + r * k, k, one);
      for (int m = 0; m < M; ++m) out[m][r] = one[m][0];
    }
  }
  for (int m = 0; m < M; ++m) {
    const int64_t at = (i + m) * args.n + j;
    F v = Load(out[m], rows);
    if (args.bias != nullptr) v += Load(static_cast<const Out*>(args.bias) + j, rows);
    if (args.residual != nullptr) v += Load(static_cast<const Out*>(args.residual) + at, rows);
    Store(static_cast<Out*>(args.y) + at, v, rows);
  }
}

template <typename T, typename Out, typename W, bool kFirst>
void GemvRows(const GemvArgs& args, int64_t i, int64_t j, int rows) {
  switch (args.m - i) {
    case 1:
      return GemvTile<T, Out, W, 1, kFirst>(args, i, j, rows);
    case 2:
      return GemvTile<T, Out, W, 2, kFirst>(args, i, j, rows);
    case 3:
      return GemvTile<T, Out, W, 3, kFirst>(args, i, j, rows);
    default:
      return GemvTile<T, Out, W, 4, kFirst>(args, i, j, rows);
  }
}

// Four rows of weights at a time, which stay in the first-level cache while all rows of x pass.
template <typename T, typename Out, typename W>
void GemvPart(const GemvArgs& args, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; j += 4) {
    const int rows = end - j < 4 ? static_cast<int>(end - j) : 4;
    GemvRows<T, Out, W, true>(args, 0, j, rows);
    for (int64_t i = 4; i < args.m; i += 4) GemvRows<T, Out, W, false>(args, i, j, rows);
  }
}

template <typename T, typename Out, typename W = T>
void Gemv(const Context& context, const GemvArgs& args) {
  // 64 KiB of weights a thread.
  const int64_t least = 65536 / (args.k * static_cast<int64_t>(sizeof(W))) + 1;
  ParallelParts(context.threads, args.n, 4, least,
                [&](int64_t begin, int64_t end) { GemvPart<T, Out, W>(args, begin, end); });
}

}  // namespace
}  // namespace tidegate::kernels
