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

template <typename T>
TIDEGATE_INLINE typename Operand<T>::Value ReadPart(const T* p, int64_t n) {
  T lanes[Operand<T>::kStep] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
  return Operand<T>::Read(lanes);
}

// As far ahead as covers the latency of memory at full bandwidth.
constexpr int64_t kPrefetchBytes = 8192;

// out[i][r] = x[i]·w[r] for M rows of x and R rows of w.
template <typename T, int M, int R>
TIDEGATE_INLINE void DotRows(const T* x, const T* w, int64_t k, float (*out)[4]) {
  constexpr int kStep = Operand<T>::kStep;
  F sum[M][R] = {};
  int64_t l = 0;
  for (; l + kStep <= k; l += kStep) {
    typename Operand<T>::Value left[M];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) left[i] = Operand<T>::Read(x + i * k + l);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const T* p = w + r * k + l;
      __builtin_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes);
      const typename Operand<T>::Value right = Operand<T>::Read(p);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) sum[i][r] = Operand<T>::Dot(sum[i][r], left[i], right);
    }
  }
  if (l < k) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const typename Operand<T>::Value right = ReadPart(w + r * k + l, k - l);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) {
        sum[i][r] = Operand<T>::Dot(sum[i][r], ReadPart(x + i * k + l, k - l), right);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) out[i][r] = Sum(sum[i][r]);
  }
}

template <typename T, typename Out, int M>
void GemvPart(const GemvArgs& args, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(args.x);
  const T* w = static_cast<const T*>(args.w);
  const Out* residual = static_cast<const Out*>(args.residual);
  const Out* bias = static_cast<const Out*>(args.bias);
  Out* y = static_cast<Out*>(args.y);
  float out[M][4];
  for (int64_t j = begin; j < end; j += 4) {
    const int rows = end - j < 4 ? static_cast<int>(end - j) : 4;
    if (rows == 4) {
      DotRows<T, M, 4>(x, w + j * args.k, args.k, out);
    } else {
      for (int r = 0; r < rows; ++r) {
        float one[M][4];
        DotRows<T, M, 1>(x, w + (j + r) * args.k, args.k, one);
        for (int i = 0; i < M; ++i) out[i][r] = one[i][0];
      }
    }
    for (int i = 0; i < M; ++i) {
      F v = Load(out[i], rows);
      if (bias != nullptr) v += Load(bias + j, rows);
      if (residual != nullptr) v += Load(residual + i * args.n + j, rows);
      Store(y + i * args.n + j, v, rows);
    }
  }
}

template <typename T, typename Out>
void Gemv(const Context& context, const GemvArgs& args) {
  // 64 KiB of weights a thread.
  const int64_t least = 65536 / (args.k * static_cast<int64_t>(sizeof(T))) + 1;
  ParallelParts(context.threads, args.n, 4, least, [&](int64_t begin, int64_t end) {
    switch (args.m) {
      case 1:
        return GemvPart<T, Out, 1>(args, begin, end);
      case 2:
        return GemvPart<T, Out, 2>(args, begin, end);
      case 3:
        return GemvPart<T, Out, 3>(args, begin, end);
      case 4:
        return GemvPart<T, Out, 4>(args, begin, end);
    }
  });
}

}  // namespace
}  // namespace tidegate::kernels
