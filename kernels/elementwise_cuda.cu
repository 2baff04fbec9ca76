// RoPE, SwiGLU, GeGLU, dropout and convert on CUDA: eight elements a thread.
#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_vectors.h"
#include "kernels/internal/philox.h"

namespace tidegate::kernels {
namespace {

constexpr int kThreads = 256;

SIMT_DEVICE int64_t ThisPack() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

unsigned BlocksForElements(int64_t count) { return BlocksFor(count, kThreads * kPack); }

// The whole packs of an aligned array are aligned, its last one may not be whole.
SIMT_DEVICE bool Whole(bool aligned, int64_t left) { return aligned && left >= kPack; }

template <typename T>
SIMT_KERNEL(kThreads)
Rotate(RopeArgs args, bool aligned) {
  const int64_t half = args.head_dim / 2, packs = (half + kPack - 1) / kPack;
  const int64_t pack = ThisPack();
  if (pack >= args.m * args.heads * packs) return;
  const int64_t j = pack % packs * kPack, head = pack / packs, row = head / args.heads;
  T* x = static_cast<T*>(args.x) + head * args.head_dim + j;
  float c[kPack], s[kPack], first[kPack], second[kPack], turned[kPack];
  Load8(args.cos + row * half + j, half - j, aligned, c);
  Load8(args.sin + row * half + j, half - j, aligned, s);
  Load8(x, half - j, aligned, first);
  Load8(x + half, half - j, aligned, second);
  SIMT_UNROLL
  for (int e = 0; e < kPack; ++e) {
    c[e] = RoundTo<T>(c[e]);
    s[e] = args.inverse ? -RoundTo<T>(s[e]) : RoundTo<T>(s[e]);
    turned[e] = first[e] * c[e] - second[e] * s[e];
    second[e] = second[e] * c[e] + first[e] * s[e];
  }
  Store8(x, half - j, aligned, turned);
  Store8(x + half, half - j, aligned, second);
}

// e^x: to a rounding of float where that is what the activations hold.
SIMT_DEVICE float Exp(float x, const float*) { return expf(x); }
SIMT_DEVICE float Exp(float x, const BF16*) { return simt::FastExp(x); }

// value(x) = x · sigmoid(inner(x)), slope its derivative.
struct Gate {
  float value, slope;
};

struct Silu {
  template <typename T>
  static SIMT_DEVICE Gate At(float x, const T* type) {
    const float sigmoid = 1.0f / (1.0f + Exp(-x, type)), silu = x * sigmoid;
    return {silu, sigmoid + silu * (1.0f - sigmoid)};
  }
};

struct Gelu {
  template <typename T>
  static SIMT_DEVICE Gate At(float x, const T* type) {
    constexpr float kTwiceRootTwoOverPi = 1.59576912160573071f, kCubic = 0.044715f;
    const float squared = x * x;
    const float sigmoid =
        1.0f / (1.0f + Exp(-kTwiceRootTwoOverPi * (x + kCubic * squared * x), type));
    const float gelu = x * sigmoid, flat = 1.0f - sigmoid;
    // Where the sigmoid is flat the inner slope may have overflown.
    const float bend = flat * gelu == 0.0f
                           ? 0.0f
                           : gelu * flat * kTwiceRootTwoOverPi * (1.0f + 3.0f * kCubic * squared);
    return {gelu, sigmoid + bend};
  }
};

template <typename T, typename G>
SIMT_KERNEL(kThreads)
GateForward(SwigluForwardArgs args, bool aligned) {
  const int64_t i = ThisPack() * kPack, left = args.count - i;
  if (left <= 0) return;
  const bool whole = Whole(aligned, left);
  float gate[kPack], up[kPack];
  Load8(static_cast<const T*>(args.gate) + i, left, whole, gate);
  Load8(static_cast<const T*>(args.up) + i, left, whole, up);
  SIMT_UNROLL
  for (int e = 0; e < kPack; ++e) gate[e] = G::At(gate[e], static_cast<T*>(nullptr)).value * up[e];
  Store8(static_cast<T*>(args.act) + i, left, whole, gate);
}

template <typename T, typename G>
SIMT_KERNEL(kThreads)
GateBackward(SwigluBackwardArgs args, bool aligned) {
  const int64_t i = ThisPack() * kPack, left = args.count - i;
  if (left <= 0) return;
  const bool whole = Whole(aligned, left);
  float gate[kPack], up[kPack], d[kPack], act[kPack];
  Load8(static_cast<const T*>(args.gate) + i, left, whole, gate);
  Load8(static_cast<const T*>(args.up) + i, left, whole, up);
  Load8(static_cast<const T*>(args.dact) + i, left, whole, d);
  SIMT_UNROLL
  for (int e = 0; e < kPack; ++e) {
    const Gate g = G::At(gate[e], static_cast<T*>(nullptr));
    act[e] = g.value * up[e];
    gate[e] = d[e] * up[e] * g.slope;
    up[e] = d[e] * g.value;
  }
  Store8(static_cast<T*>(args.dgate) + i, left, whole, gate);
  Store8(static_cast<T*>(args.dup) + i, left, whole, up);
  if (args.act != nullptr) Store8(static_cast<T*>(args.act) + i, left, whole, act);
}

struct Mask {
  uint64_t threshold;  // the least word that is kept
  float scale;
  DropoutKey key;
};

// What elements 4·block … 4·block+3 are multiplied by, zero for those that are dropped.
SIMT_DEVICE void PhiloxWords(const DropoutKey& key, uint64_t block, uint32_t (&c)[4]) {
  c[0] = static_cast<uint32_t>(block);
  c[1] = static_cast<uint32_t>(block >> 32);
  c[2] = key.step;
  c[3] = key.stream;
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  SIMT_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(kPhiloxM0, c[0]), low0 = kPhiloxM0 * c[0];
    const uint32_t high1 = __umulhi(kPhiloxM1, c[2]), low1 = kPhiloxM1 * c[2];
    c[0] = high1 ^ c[1] ^ k0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ k1;
    c[3] = low0;
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
}

template <typename T, bool kAdd>
SIMT_KERNEL(kThreads)
Drop(int64_t count, Mask mask, const T* in, T* out, bool aligned) {
  const int64_t i = ThisPack() * kPack, left = count - i;
  if (left <= 0) return;
  const bool whole = Whole(aligned, left);
  float v[kPack], before[kPack];
  Load8(in + i, left, whole, v);
  if (kAdd) Load8(out + i, left, whole, before);
  SIMT_UNROLL
  for (int four = 0; four < kPack; four += 4) {
    uint32_t words[4];
    PhiloxWords(mask.key, static_cast<uint64_t>(i + four) / 4, words);
    SIMT_UNROLL
    for (int e = 0; e < 4; ++e) {
      const float kept = words[e] >= mask.threshold ? v[four + e] * mask.scale : 0.0f;
      v[four + e] = kAdd ? before[four + e] + kept : kept;
    }
  }
  Store8(out + i, left, whole, v);
}

// A bf16 by the rules of kernels/README.md, to the bit: parameters' copies are the same everywhere.
SIMT_DEVICE float Store(float value, const float*) { return value; }
SIMT_DEVICE BF16 Store(float value, const BF16*) {
  const uint32_t bits = simt::BitsOf(value);
  const uint32_t exponent = bits >> 23 & 0xff;
  if (exponent == 0) return {static_cast<uint16_t>(bits >> 31 << 15)};
  if (exponent == 0xff && (bits & 0x7fffff) != 0) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// A NaN comes out with the bits it came with.
SIMT_DEVICE float Times(float value, float scale) { return value != value ? value : value * scale; }

SIMT_DEVICE void StoreWhole(float* p, const float (&v)[kPack]) { StoreAligned(p, v); }
SIMT_DEVICE void StoreWhole(BF16* p, const float (&v)[kPack]) {
  Words words;
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) {
    words.w[i] = Store(v[2 * i], p).bits | static_cast<uint32_t>(Store(v[2 * i + 1], p).bits) << 16;
  }
  *reinterpret_cast<Words*>(p) = words;
}

template <typename T>
SIMT_KERNEL(kThreads)
Scale(int64_t count, const float* in, float scale, T* out, bool aligned) {
  const int64_t i = ThisPack() * kPack, left = count - i;
  if (left <= 0) return;
  const bool whole = Whole(aligned, left);
  float v[kPack];
  Load8(in + i, left, whole, v);
  SIMT_UNROLL
  for (int e = 0; e < kPack; ++e) v[e] = Times(v[e], scale);
  if (whole) return StoreWhole(out + i, v);
  for (int e = 0; e < kPack; ++e) {
    if (e < left) out[i + e] = Store(v[e], static_cast<T*>(nullptr));
  }
}

template <typename T, typename G>
void ForwardOf(const Context& context, const char* name, const SwigluForwardArgs& args) {
  Launch(context, name, GateForward<T, G>, BlocksForElements(args.count), kThreads, 0, args,
         AllAligned16(args.gate, args.up, args.act));
}

template <typename T, typename G>
void BackwardOf(const Context& context, const char* name, const SwigluBackwardArgs& args) {
  const bool aligned =
      AllAligned16(args.gate, args.up, args.dact, args.dgate, args.dup) && Aligned16(args.act);
  Launch(context, name, GateBackward<T, G>, BlocksForElements(args.count), kThreads, 0, args,
         aligned);
}

Mask MaskOf(double p, const DropoutKey& key) {
  return {DropoutThreshold(p), static_cast<float>(1 / (1 - p)), key};
}

}  // namespace

template <typename T>
void RopeCuda(const Context& context, const RopeArgs& args) {
  const int64_t half = args.head_dim / 2;
  const bool aligned = half % kPack == 0 && AllAligned16(args.x, args.cos, args.sin);
  const int64_t packs = args.m * args.heads * ((half + kPack - 1) / kPack);
  Launch(context, "rope", Rotate<T>, BlocksFor(packs, kThreads), kThreads, 0, args, aligned);
}

template <typename T>
void SwigluForwardCuda(const Context& context, const SwigluForwardArgs& args) {
  ForwardOf<T, Silu>(context, "swiglu", args);
}
template <typename T>
void SwigluBackwardCuda(const Context& context, const SwigluBackwardArgs& args) {
  BackwardOf<T, Silu>(context, "swiglu backward", args);
}
template <typename T>
void GegluForwardCuda(const Context& context, const GegluForwardArgs& args) {
  ForwardOf<T, Gelu>(context, "geglu", args);
}
template <typename T>
void GegluBackwardCuda(const Context& context, const GegluBackwardArgs& args) {
  BackwardOf<T, Gelu>(context, "geglu backward", args);
}

template <typename T>
void DropoutForwardCuda(const Context& context, const DropoutForwardArgs& args) {
  Launch(context, "dropout", Drop<T, false>, BlocksForElements(args.count), kThreads, 0, args.count,
         MaskOf(args.p, args.key), static_cast<const T*>(args.x), static_cast<T*>(args.y),
         AllAligned16(args.x, args.y));
}
template <typename T>
void DropoutBackwardCuda(const Context& context, const DropoutBackwardArgs& args) {
  Launch(context, "dropout backward", Drop<T, true>, BlocksForElements(args.count), kThreads, 0,
         args.count, MaskOf(args.p, args.key), static_cast<const T*>(args.dy),
         static_cast<T*>(args.dx), AllAligned16(args.dy, args.dx));
}

template <typename T>
void ConvertCuda(const Context& context, const ConvertArgs& args) {
  Launch(context, "convert", Scale<T>, BlocksForElements(args.count), kThreads, 0, args.count,
         static_cast<const float*>(args.in), static_cast<float>(args.scale),
         static_cast<T*>(args.out), AllAligned16(args.in, args.out));
}

#define TIDEGATE_INSTANTIATE(Op)                                  \
  template void Op##Cuda<float>(const Context&, const Op##Args&); \
  template void Op##Cuda<BF16>(const Context&, const Op##Args&);

TIDEGATE_INSTANTIATE(Rope)
TIDEGATE_INSTANTIATE(SwigluForward)
TIDEGATE_INSTANTIATE(SwigluBackward)
TIDEGATE_INSTANTIATE(GegluForward)
TIDEGATE_INSTANTIATE(GegluBackward)
TIDEGATE_INSTANTIATE(DropoutForward)
TIDEGATE_INSTANTIATE(DropoutBackward)
TIDEGATE_INSTANTIATE(Convert)

#undef TIDEGATE_INSTANTIATE

}  // namespace tidegate::kernels
