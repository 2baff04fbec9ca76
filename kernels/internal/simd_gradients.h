// Sums over rows and the head's slopes, for gradients of a base's weights; part of simd_body.h.
// Sums are shared between threads by columns, so that each runs over its rows in order.
#pragma once

#include "kernels/internal/simd_ops.h"
#include "kernels/internal/vec.h"

namespace tidegate::kernels {
namespace {

template <typename T, bool kNormed>
void ColumnSumsPart(const ColumnSumsArgs& args, int64_t begin, int64_t end) {
  const T* dy = static_cast<const T*>(args.dy);
  const T* x = static_cast<const T*>(args.x);
  const float* rstd = static_cast<const float*>(args.rstd);
  float* out = static_cast<float*>(args.out);
  ForVectors(begin, end, [&](int64_t j, int n) TIDEGATE_LAMBDA {
    F sum = Load(out + j, n);
    for (int64_t i = 0; i < args.m; ++i) {
      const F g = Load(dy + i * args.n + j, n);
      if constexpr (kNormed) {
        sum += g * RoundTo<T>(Load(x + i * args.n + j, n) * rstd[i]);
      } else {
        sum += g;
      }
    }
    Store(out + j, sum, n);
  });
}

template <typename T>
void ColumnSums(const Context& context, const ColumnSumsArgs& args) {
  const int64_t least = kLeastElements / (args.m + 1) + kLanes;
  ParallelParts(context.threads, args.n, 64, least, [&](int64_t begin, int64_t end) {
    if (args.x != nullptr) return ColumnSumsPart<T, true>(args, begin, end);
    ColumnSumsPart<T, false>(args, begin, end);
  });
}

template <typename T>
void ScatterRows(const Context& context, const ScatterRowsArgs& args) {
  const T* x = static_cast<const T*>(args.x);
  float* out = static_cast<float*>(args.out);
  const int64_t least = kLeastElements / (args.m + 1) + kLanes;
  ParallelParts(context.threads, args.k, 64, least, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < args.m; ++i) {
      const float factor = args.weights == nullptr ? args.factor : args.factor * args.weights[i];
      float* row = out + args.ids[i] * args.k;
      const T* from = x + i * args.k;
      ForVectors(begin, end, [&](int64_t l, int n) TIDEGATE_LAMBDA {
        Store(row + l, Load(row + l, n) + Load(from + l, n) * factor, n);
      });
    }
  });
}

template <typename T>
void HeadSlopes(const Context& context, const HeadSlopesArgs& args) {
  T* p = static_cast<T*>(args.p);
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* logits = args.logits + i * args.columns;
      const float weight = args.weights == nullptr ? 1.0f : args.weights[i];
      const float lse = args.lse[i];
      ForVectors(0, args.columns, [&](int64_t j, int n) TIDEGATE_LAMBDA {
        Store(p + i * args.columns + j, Exp(Load(logits + j, n) - lse) * weight, n);
      });
    }
  };
  ParallelParts(context.threads, args.rows, 1, kLeastElements / args.columns + 1, rows);
}

}  // namespace
}  // namespace tidegate::kernels
