// The emulator's half of simt.h: CUDA's names as functions of a running fiber. Defined in
// tests/kernels/simt/emulator.cc, which says what is checked.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define SIMT_DEVICE inline
#define SIMT_KERNEL(threads) void
#define SIMT_SHARED(T, name, ...)                 \
  typedef T name##_type __VA_ARGS__;              \
  static const char name##_key = 0;               \
  name##_type& name = *static_cast<name##_type*>( \
      ::tidegate::kernels::simt::emulated::StaticShared(&name##_key, sizeof(name##_type)))
#define SIMT_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::tidegate::kernels::simt::emulated::DynamicShared())
#define SIMT_UNROLL
#define SIMT_UNROLL_FEW

namespace tidegate::kernels::simt {
namespace emulated {

// What a CUDA thread knows of itself.
struct Thread {
  dim3 thread, block, block_size, grid_size;
};
extern Thread* self;

// Memory of the running block, of exactly this size, filled with NaN before the block begins.
void* StaticShared(const void* key, size_t bytes);
void* DynamicShared();

void BlockBarrier(const char* file, int line);
void WarpBarrier(uint32_t mask, const char* file, int line);
// A value from each lane of the mask to all of them: `all` has 32 slots of `bytes`, those of lanes
// outside the mask stay as they are. Orders no memory.
void Exchange(uint32_t mask, const void* own, void* all, size_t bytes, const char* file, int line);

void CopyAsync16(void* shared, const void* global, bool wanted);
void CopyCommit();
void CopyWait(int pending);

// Queues a grid on the stream.
cudaError_t Enqueue(dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                    std::function<void()> thread);

template <typename T>
T Shuffle(uint32_t mask, T value, int from, const char* file, int line) {
  T all[32] = {};
  Exchange(mask, &value, all, sizeof(T), file, line);
  return all[from & 31];
}

}  // namespace emulated

template <typename... P>
cudaError_t TryLaunch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                      cudaStream_t stream, std::type_identity_t<P>... args) {
  return emulated::Enqueue(grid, block, shared, stream, [=] { kernel(args...); });
}

// All lanes of the warp call these, from one place.
void Mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
              const char* file = __builtin_FILE(), int line = __builtin_LINE());
void LoadMatrix4(uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE());
void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                           int line = __builtin_LINE());

inline void CopyAsync16(void* shared, const void* global, bool wanted) {
  emulated::CopyAsync16(shared, global, wanted);
}
inline void CopyCommit() { emulated::CopyCommit(); }
template <int kPending>
void CopyWait() {
  emulated::CopyWait(kPending);
}

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t RoundToBF16(float value) {
  const uint32_t bits = BitsOf(value);
  if (std::isnan(value)) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t PackBF16(float low, float high) {
  return RoundToBF16(low) | RoundToBF16(high) << 16;
}
inline float FastInverse(float x) { return 1.0f / x; }
inline float FastExp(float x) { return std::exp(x); }
inline float FastExp2(float x) { return std::exp2(x); }

}  // namespace tidegate::kernels::simt

#define threadIdx (::tidegate::kernels::simt::emulated::self->thread)
#define blockIdx (::tidegate::kernels::simt::emulated::self->block)
#define blockDim (::tidegate::kernels::simt::emulated::self->block_size)
#define gridDim (::tidegate::kernels::simt::emulated::self->grid_size)

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  ::tidegate::kernels::simt::emulated::BlockBarrier(file, line);
}
inline void __syncwarp(uint32_t mask = 0xffffffffu, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  ::tidegate::kernels::simt::emulated::WarpBarrier(mask, file, line);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  return ::tidegate::kernels::simt::emulated::Shuffle(mask, value, lane ^ lanes, file, line);
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int from, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  return ::tidegate::kernels::simt::emulated::Shuffle(mask, value, from, file, line);
}
inline uint32_t __ballot_sync(uint32_t mask, bool predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  uint32_t all[32] = {};
  const uint32_t own = predicate ? 1 : 0;
  ::tidegate::kernels::simt::emulated::Exchange(mask, &own, all, sizeof(own), file, line);
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= (mask >> lane & all[lane]) << lane;
  return bits;
}
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}
