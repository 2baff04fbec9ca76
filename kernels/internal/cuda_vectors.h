// Eight elements at a time in CUDA kernels, and sums over warps and blocks. A row's values and the
// order of its sums are the same whether it lies aligned or not.
#pragma once

#include "kernels/internal/bf16.h"
#include "kernels/internal/simt.h"

namespace tidegate::kernels {

SIMT_DEVICE float Widen(float value) { return value; }
SIMT_DEVICE float Widen(BF16 value) {
  return simt::FloatOf(static_cast<uint32_t>(value.bits) << 16);
}
template <typename T>
SIMT_DEVICE T Narrow(float value);
template <>
SIMT_DEVICE float Narrow<float>(float value) {
  return value;
}
template <>
SIMT_DEVICE BF16 Narrow<BF16>(float value) {
  return {static_cast<uint16_t>(simt::PackBF16(value, 0.0f))};
}
// What is left of a value that was stored as T.
template <typename T>
SIMT_DEVICE float RoundTo(float value) {
  return Widen(Narrow<T>(value));
}

inline constexpr int kPack = 8;

struct alignas(16) Words {
  uint32_t w[4];
};

SIMT_DEVICE void LoadAligned(const float* p, float (&v)[kPack]) {
  SIMT_UNROLL
  for (int half = 0; half < 2; ++half) {
    const Words words = reinterpret_cast<const Words*>(p)[half];
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) v[4 * half + i] = simt::FloatOf(words.w[i]);
  }
}
SIMT_DEVICE void LoadAligned(const BF16* p, float (&v)[kPack]) {
  const Words words = *reinterpret_cast<const Words*>(p);
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = simt::FloatOf(words.w[i] << 16);
    v[2 * i + 1] = simt::FloatOf(words.w[i] & 0xffff0000u);
  }
}
SIMT_DEVICE void StoreAligned(float* p, const float (&v)[kPack]) {
  SIMT_UNROLL
  for (int half = 0; half < 2; ++half) {
    Words words;
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) words.w[i] = simt::BitsOf(v[4 * half + i]);
    reinterpret_cast<Words*>(p)[half] = words;
  }
}
SIMT_DEVICE void StoreAligned(BF16* p, const float (&v)[kPack]) {
  Words words;
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) words.w[i] = simt::PackBF16(v[2 * i], v[2 * i + 1]);
  *reinterpret_cast<Words*>(p) = words;
}

// Elements 0 … min(count, 8) - 1 at p, zeros for the others. `aligned`: whole and at a multiple of
// 16 bytes.
template <typename T>
SIMT_DEVICE void Load8(const T* p, int64_t count, bool aligned, float (&v)[kPack]) {
  if (aligned) return LoadAligned(p, v);
  SIMT_UNROLL
  for (int i = 0; i < kPack; ++i) v[i] = i < count ? Widen(p[i]) : 0.0f;
}
template <typename T>
SIMT_DEVICE void Store8(T* p, int64_t count, bool aligned, const float (&v)[kPack]) {
  if (aligned) return StoreAligned(p, v);
  SIMT_UNROLL
  for (int i = 0; i < kPack; ++i) {
    if (i < count) p[i] = Narrow<T>(v[i]);
  }
}

SIMT_DEVICE float WarpSum(float value) {
  SIMT_UNROLL
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(simt::kAllLanes, value, lanes);
  }
  return value;
}
SIMT_DEVICE float WarpMax(float value) {
  SIMT_UNROLL
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value = fmaxf(value, __shfl_xor_sync(simt::kAllLanes, value, lanes));
  }
  return value;
}

// The sum over kWarps warps of a block, in their order, to all of their threads; all of the block
// take part. `partial`: shared, kWarps values.
template <int kWarps>
SIMT_DEVICE float GroupSum(float value, float* partial) {
  value = WarpSum(value);
  if (kWarps == 1) return value;
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarp;
  __syncthreads();  // who still reads the sums of the call before
  if (threadIdx.x % simt::kWarp == 0) partial[warp] = value;
  __syncthreads();
  float sum = 0;
  SIMT_UNROLL
  for (int i = 0; i < kWarps; ++i) sum += partial[i];
  return sum;
}
template <int kWarps>
SIMT_DEVICE float GroupMax(float value, float* partial) {
  value = WarpMax(value);
  if (kWarps == 1) return value;
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarp;
  __syncthreads();
  if (threadIdx.x % simt::kWarp == 0) partial[warp] = value;
  __syncthreads();
  float max = partial[0];
  SIMT_UNROLL
  for (int i = 1; i < kWarps; ++i) max = fmaxf(max, partial[i]);
  return max;
}

}  // namespace tidegate::kernels
