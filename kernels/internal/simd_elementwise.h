// SwiGLU, AdamW, sums of squares and conversions over vectors; part of simd_body.h.
#pragma once

#include "kernels/internal/vec.h"
#include "kernels/table.h"

namespace tidegate::kernels {
namespace {

// A gate's value, and what the gradients of its product need.
struct Silu {
  static TIDEGATE_INLINE F Sigmoid(F x) { return 1.0f / (1.0f + Exp(-x)); }
  static TIDEGATE_INLINE F Value(F x, F sigmoid) { return x * sigmoid; }
  static TIDEGATE_INLINE F Slope(F, F sigmoid, F value) {
    return sigmoid + value * (1.0f - sigmoid);
  }
};

// gelu in its tanh form: x · sigmoid(2u), u = √(2/π)·(x + 0.044715·x³).
struct Gelu {
  static constexpr float kTwice = 1.5957691216f, kCubic = 0.044715f;
  // Beyond 10 nothing changes any more, and an infinite square times zero would be NaN.
  static TIDEGATE_INLINE F Square(F x) {
    const F square = x * x;
    return square > 100.0f ? Splat(100.0f) : square;
  }
  static TIDEGATE_INLINE F Sigmoid(F x) {
    return 1.0f / (1.0f + Exp(-(x * (kTwice + (kTwice * kCubic) * Square(x)))));
  }
  static TIDEGATE_INLINE F Value(F x, F sigmoid) { return x * sigmoid; }
  static TIDEGATE_INLINE F Slope(F x, F sigmoid, F value) {
    return sigmoid + value * (1.0f - sigmoid) * (kTwice + (3.0f * kTwice * kCubic) * Square(x));
  }
};

template <typename T, typename Gate>
void GluForward(const Context& context, const SwigluForwardArgs& args) {
  const T* gate = static_cast<const T*>(args.gate);
  const T* up = static_cast<const T*>(args.up);
  T* act = static_cast<T*>(args.act);
  ParallelParts(context.threads, args.count, 64, kLeastElements, [&](int64_t begin, int64_t end) {
    ForVectors(begin, end, [&](int64_t i, int n) TIDEGATE_LAMBDA {
      const F g = Load(gate + i, n);
      Store(act + i, Gate::Value(g, Gate::Sigmoid(g)) * Load(up + i, n), n);
    });
  });
}

template <typename T, typename Gate, bool kAct>
void GluBackwardParts(const Context& context, const SwigluBackwardArgs& args) {
  const T* gate = static_cast<const T*>(args.gate);
  const T* up = static_cast<const T*>(args.up);
  const T* dact = static_cast<const T*>(args.dact);
  T* dgate = static_cast<T*>(args.dgate);
  T* dup = static_cast<T*>(args.dup);
  T* act = static_cast<T*>(args.act);
  ParallelParts(context.threads, args.count, 64, kLeastElements, [&](int64_t begin, int64_t end) {
    ForVectors(begin, end, [&](int64_t i, int n) TIDEGATE_LAMBDA {
      const F g = Load(gate + i, n), u = Load(up + i, n), d = Load(dact + i, n);
      const F sigmoid = Gate::Sigmoid(g);
      const F value = Gate::Value(g, sigmoid);
      Store(dup + i, d * value, n);
      Store(dgate + i, d * u * Gate::Slope(g, sigmoid, value), n);
      if constexpr (kAct) Store(act + i, value * u, n);
    });
  });
}

template <typename T, typename Gate>
void GluBackward(const Context& context, const SwigluBackwardArgs& args) {
  if (args.act != nullptr) {
    GluBackwardParts<T, Gate, true>(context, args);
  } else {
    GluBackwardParts<T, Gate, false>(context, args);
  }
}

template <typename T>
void SwigluForward(const Context& context, const SwigluForwardArgs& args) {
  GluForward<T, Silu>(context, args);
}
template <typename T>
void SwigluBackward(const Context& context, const SwigluBackwardArgs& args) {
  GluBackward<T, Silu>(context, args);
}
template <typename T>
void GegluForward(const Context& context, const GegluForwardArgs& args) {
  GluForward<T, Gelu>(context, args);
}
template <typename T>
void GegluBackward(const Context& context, const GegluBackwardArgs& args) {
  GluBackward<T, Gelu>(context, args);
}

inline void AdamW(const Context& context, const AdamWArgs& args) {
  float* p = static_cast<float*>(args.p);
  const float* g = static_cast<const float*>(args.g);
  float* m = static_cast<float*>(args.m);
  float* v = static_cast<float*>(args.v);
  const double step = static_cast<double>(args.step);
  const double correction1 = 1 - __builtin_pow(args.beta1, step);
  const double correction2 = 1 - __builtin_pow(args.beta2, step);
  const float scale = static_cast<float>(args.grad_scale);
  const float blend1 = static_cast<float>(1 - args.beta1);
  const float beta2 = static_cast<float>(args.beta2), blend2 = static_cast<float>(1 - args.beta2);
  const float decay = static_cast<float>(1 - args.lr * args.weight_decay);
  const float rate = static_cast<float>(args.lr / correction1);
  const float root = static_cast<float>(__builtin_sqrt(correction2));
  const float eps = static_cast<float>(args.eps);
  ParallelParts(context.threads, args.count, 64, kLeastElements, [&](int64_t begin, int64_t end) {
    ForVectors(begin, end, [&](int64_t i, int n) TIDEGATE_LAMBDA {
      const F grad = Load(g + i, n) * scale;
      const F first = Load(m + i, n);
      const F mean = first + (grad - first) * blend1;
      const F square = Load(v + i, n) * beta2 + grad * grad * blend2;
      Store(m + i, mean, n);
      Store(v + i, square, n);
      const F denominator = Sqrt(square) / root + eps;
      Store(p + i, Load(p + i, n) * decay - rate * mean / denominator, n);
    });
  });
}

constexpr int64_t kSumBlock = 4096;

TIDEGATE_INLINE double SumSquaresBlock(const float* x, int64_t count) {
  constexpr int kHalf = kLanes / 2;
  const auto square = [&](int64_t i) TIDEGATE_LAMBDA {
    const D v = __builtin_convertvector(LoadBits<HalfF>(x + i), D);
    return v * v;
  };
  D s0{}, s1{}, s2{}, s3{};
  int64_t i = 0;
  for (; i + 4 * kHalf <= count; i += 4 * kHalf) {
    s0 += square(i);
    s1 += square(i + kHalf);
    s2 += square(i + 2 * kHalf);
    s3 += square(i + 3 * kHalf);
  }
  const D s = (s0 + s1) + (s2 + s3);
  double sum = 0;
  for (int lane = 0; lane < kHalf; ++lane) sum += s[lane];
  for (; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

inline void SumSquares(const Context& context, const SumSquaresArgs& args) {
  const float* x = static_cast<const float*>(args.x);
  const int64_t blocks = (args.count + kSumBlock - 1) / kSumBlock;
  const Workspace::Scope scope(*context.workspace);
  double* partial = static_cast<double*>(
      context.workspace->Allocate(static_cast<size_t>(blocks) * sizeof(double)));
  ParallelParts(context.threads, blocks, 1, 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t left = args.count - b * kSumBlock;
      partial[b] = SumSquaresBlock(x + b * kSumBlock, left < kSumBlock ? left : kSumBlock);
    }
  });
  double sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += partial[b];
  *args.out = sum;
}

template <typename T>
void Convert(const Context& context, const ConvertArgs& args) {
  const float* in = static_cast<const float*>(args.in);
  T* out = static_cast<T*>(args.out);
  const float scale = static_cast<float>(args.scale);
  ParallelParts(context.threads, args.count, 64, kLeastElements, [&](int64_t begin, int64_t end) {
    ForVectors(begin, end, [&](int64_t i, int n) TIDEGATE_LAMBDA {
      Store(out + i, Load(in + i, n) * scale, n);
    });
  });
}

}  // namespace
}  // namespace tidegate::kernels
