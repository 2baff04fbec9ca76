// RMSNorm and RoPE over vectors; part of simd_body.h.
#pragma once

#include "kernels/internal/vec.h"
#include "kernels/table.h"

namespace tidegate::kernels {
namespace {

// term(i, n) summed over the vectors of a row, in four chains to hide the adds' latency.
template <typename Term>
TIDEGATE_INLINE float SumRow(int64_t n, const Term& term) {
  F s0{}, s1{}, s2{}, s3{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 += term(i, kLanes);
    s1 += term(i + kLanes, kLanes);
    s2 += term(i + 2 * kLanes, kLanes);
    s3 += term(i + 3 * kLanes, kLanes);
  }
  ForVectors(i, n, [&](int64_t j, int lanes) TIDEGATE_LAMBDA { s0 += term(j, lanes); });
  return Sum((s0 + s1) + (s2 + s3));
}

template <typename T>
void RmsNormForward(const Context& context, const RmsNormForwardArgs& args) {
  const int64_t n = args.n;
  const T* w = static_cast<const T*>(args.w);
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = static_cast<const T*>(args.x) + row * n;
      T* y = static_cast<T*>(args.y) + row * n;
      const float squares = SumRow(n, [&](int64_t i, int lanes) TIDEGATE_LAMBDA {
        const F v = Load(x + i, lanes);
        return v * v;
      });
      const float mean = squares / static_cast<float>(n) + static_cast<float>(args.eps);
      const float rstd = 1.0f / __builtin_sqrtf(mean);
      ForVectors(0, n, [&](int64_t i, int lanes) TIDEGATE_LAMBDA {
        const F normalised = RoundTo<T>(Load(x + i, lanes) * rstd);
        Store(y + i, normalised * Load(w + i, lanes), lanes);
      });
      if (args.rstd != nullptr) static_cast<float*>(args.rstd)[row] = rstd;
    }
  };
  ParallelParts(context.threads, args.m, 1, kLeastElements / n + 1, rows);
}

// With g = dy·w: dx = rstd·g − x·rstd³·mean(g·x).
template <typename T, bool kAccumulate>
void RmsNormBackwardRows(const Context& context, const RmsNormBackwardArgs& args) {
  const int64_t n = args.n;
  const T* w = static_cast<const T*>(args.w);
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = static_cast<const T*>(args.x) + row * n;
      const T* dy = static_cast<const T*>(args.dy) + row * n;
      T* dx = static_cast<T*>(args.dx) + row * n;
      const float rstd = static_cast<const float*>(args.rstd)[row];
      const float dot = SumRow(n, [&](int64_t i, int lanes) TIDEGATE_LAMBDA {
        return Load(dy + i, lanes) * Load(w + i, lanes) * Load(x + i, lanes);
      });
      const float shared = dot * rstd / static_cast<float>(n) * rstd;
      ForVectors(0, n, [&](int64_t i, int lanes) TIDEGATE_LAMBDA {
        const F g = Load(dy + i, lanes) * Load(w + i, lanes);
        F d = (g - Load(x + i, lanes) * shared) * rstd;
        if constexpr (kAccumulate) d += Load(dx + i, lanes);
        Store(dx + i, d, lanes);
      });
    }
  };
  ParallelParts(context.threads, args.m, 1, kLeastElements / n + 1, rows);
}

template <typename T>
void RmsNormBackward(const Context& context, const RmsNormBackwardArgs& args) {
  if (args.accumulate) {
    RmsNormBackwardRows<T, true>(context, args);
  } else {
    RmsNormBackwardRows<T, false>(context, args);
  }
}

template <typename T>
void Rope(const Context& context, const RopeArgs& args) {
  const int64_t half = args.head_dim / 2;
  const float sign = args.inverse ? -1.0f : 1.0f;
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* cos = args.cos + row * half;
      const float* sin = args.sin + row * half;
      for (int64_t head = 0; head < args.heads; ++head) {
        T* x = static_cast<T*>(args.x) + (row * args.heads + head) * args.head_dim;
        ForVectors(0, half, [&](int64_t i, int lanes) TIDEGATE_LAMBDA {
          const F c = RoundTo<T>(Load(cos + i, lanes));
          const F s = RoundTo<T>(Load(sin + i, lanes)) * sign;
          const F first = Load(x + i, lanes), second = Load(x + i + half, lanes);
          Store(x + i, first * c - second * s, lanes);
          Store(x + i + half, second * c + first * s, lanes);
        });
      }
    }
  };
  ParallelParts(context.threads, args.m, 1, kLeastElements / (args.heads * args.head_dim) + 1,
                rows);
}

}  // namespace
}  // namespace tidegate::kernels
