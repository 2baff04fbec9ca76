// Dropout over vectors of Philox blocks; part of simd_body.h.
#pragma once

#include "kernels/internal/philox.h"
#include "kernels/internal/vec.h"
#include "kernels/table.h"

namespace tidegate::kernels {
namespace {

// A group is what one round of kLanes/2 Philox blocks gives: 2·kLanes words, in element order.
constexpr int kGroup = 2 * kLanes;

struct DropoutPlan {
  uint32_t k0[10], k1[10];
  uint32_t step, stream;
  uint64_t threshold;
  float factor;
};

inline DropoutPlan PlanDropout(const DropoutKey& key, double p) {
  DropoutPlan plan;
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += kPhiloxW0, k1 += kPhiloxW1) {
    plan.k0[round] = k0;
    plan.k1[round] = k1;
  }
  plan.step = key.step;
  plan.stream = key.stream;
  plan.threshold = DropoutThreshold(p);
  plan.factor = static_cast<float>(1 / (1 - p));
  return plan;
}

#if defined(__AVX512F__)
#define TIDEGATE_LOW_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define TIDEGATE_HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
constexpr Q kBlockIndex = {0, 1, 2, 3, 4, 5, 6, 7};
#elif defined(__AVX2__)
#define TIDEGATE_LOW_HALVES 0, 4, 1, 5
#define TIDEGATE_HIGH_HALVES 2, 6, 3, 7
constexpr Q kBlockIndex = {0, 1, 2, 3};
#else
#define TIDEGATE_LOW_HALVES 0, 2
#define TIDEGATE_HIGH_HALVES 1, 3
constexpr Q kBlockIndex = {0, 1};
#endif

// The words of the blocks from `block` on. Only the low halves of the lanes count: what stands
// above them is never read by a multiplication, and masked off at the end.
TIDEGATE_INLINE void GroupWords(const DropoutPlan& plan, uint64_t block, U* low, U* high) {
  const Q m0 = Q{} + uint64_t{kPhiloxM0}, m1 = Q{} + uint64_t{kPhiloxM1};
  Q c0 = kBlockIndex + block, c1 = c0 >> 32;
  Q c2 = Q{} + uint64_t{plan.step}, c3 = Q{} + uint64_t{plan.stream};
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Q p0 = MultiplyLow(c0, m0), p1 = MultiplyLow(c2, m1);
    c0 = (p1 >> 32) ^ c1 ^ uint64_t { plan.k0[round] };
    c2 = (p0 >> 32) ^ c3 ^ uint64_t { plan.k1[round] };
    c1 = p1;
    c3 = p0;
  }
  const Q first = (c0 & 0xffffffffu) | (c1 << 32), second = (c2 & 0xffffffffu) | (c3 << 32);
  *low = (U)__builtin_shufflevector(first, second, TIDEGATE_LOW_HALVES);
  *high = (U)__builtin_shufflevector(first, second, TIDEGATE_HIGH_HALVES);
}

// out (=, += where kAdd) in ∘ mask / (1 − p) over [begin, end); begin is a multiple of kGroup.
template <typename T, bool kAdd>
void DropoutPart(const DropoutPlan& plan, const T* in, T* out, int64_t begin, int64_t end) {
  const U least = U{} + static_cast<uint32_t>(plan.threshold);
  const auto apply = [&](int64_t i, int n, U words) TIDEGATE_LAMBDA {
    F v = Load(in + i, n) * plan.factor;
    v = words >= least ? v : F{};
    if constexpr (kAdd) v += Load(out + i, n);
    Store(out + i, v, n);
  };
  for (int64_t i = begin; i < end; i += kGroup) {
    U low, high;
    GroupWords(plan, static_cast<uint64_t>(i) / 4, &low, &high);
    if (i + kGroup <= end) {
      apply(i, kLanes, low);
      apply(i + kLanes, kLanes, high);
      continue;
    }
    const int64_t left = end - i;
    apply(i, static_cast<int>(left < kLanes ? left : kLanes), low);
    if (left > kLanes) apply(i + kLanes, static_cast<int>(left - kLanes), high);
  }
}

template <typename T, bool kAdd>
void Dropout(const Context& context, int64_t count, double p, const DropoutKey& key, const void* in,
             void* out) {
  const DropoutPlan plan = PlanDropout(key, p);
  if (plan.threshold > 0xffffffffu) {  // no word is that large: everything is dropped
    if (!kAdd) __builtin_memset(out, 0, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  ParallelParts(context.threads, count, kGroup, kLeastElements, [&](int64_t begin, int64_t end) {
    DropoutPart<T, kAdd>(plan, static_cast<const T*>(in), static_cast<T*>(out), begin, end);
  });
}

template <typename T>
void DropoutForward(const Context& context, const DropoutForwardArgs& args) {
  Dropout<T, false>(context, args.count, args.p, args.key, args.x, args.y);
}

template <typename T>
void DropoutBackward(const Context& context, const DropoutBackwardArgs& args) {
  Dropout<T, true>(context, args.count, args.p, args.key, args.dy, args.dx);
}

}  // namespace
}  // namespace tidegate::kernels
