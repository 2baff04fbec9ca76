// What CUDA kernels are written against. nvcc sees CUDA; other compilers see an emulator in which
// each CUDA thread is a fiber (tests/kernels/simt), so that the same sources are tested on machines
// without a GPU. Kernels use no other way to shared memory, barriers, shuffles and tensor cores,
// no half-precision arithmetic of cuda_bf16.h, and no raw <<<>>>.
//
// bf16 is loaded, widened to float, computed with, and rounded once when it is stored.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define SIMT_DEVICE __device__ __forceinline__
#define SIMT_KERNEL(threads) __global__ void __launch_bounds__(threads)
// SIMT_SHARED(float, tile, [32][33]);
#define SIMT_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define SIMT_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char simt_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(simt_dynamic_shared)
#define SIMT_UNROLL _Pragma("unroll")
// Of a loop over rows in a kernel with kSlices accumulators: several at a time where they are few.
#define SIMT_UNROLL_FEW _Pragma("unroll (kSlices <= 4 ? 4 : 1)")
#else
#include "kernels/internal/simt_emulated.h"
#endif

namespace tidegate::kernels::simt {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

#if defined(__CUDACC__)

// Launches and says whether that was possible.
template <typename... P>
cudaError_t TryLaunch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                      cudaStream_t stream, std::type_identity_t<P>... args) {
  if (shared > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, shared, stream>>>(args...);
  return cudaPeekAtLastError();
}

// d = a·b + d for a 16×8 tile: a 16×16 and b 16×8 in bf16, d in float. Lane l = 4·g + t holds
//   a[0] (g, 2t) a[1] (g+8, 2t) a[2] (g, 2t+8) a[3] (g+8, 2t+8), each with the next column,
//   b[0] (2t, g) b[1] (2t+8, g), each with the next row, d[0] (g, 2t) d[1] (g, 2t+1) d[2] (g+8, 2t)
//   d[3] (g+8, 2t+1).
SIMT_DEVICE void Mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8×8 tiles of 16-bit elements: lane l gives the address of row l%8 of tile l/8, and receives
// of each tile the elements (g, 2t) and (g, 2t+1); transposed, (2t, g) and (2t+1, g).
SIMT_DEVICE void LoadMatrix4(uint32_t (&r)[4], const void* row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
SIMT_DEVICE void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// 16 bytes from global to shared memory behind the program's back, both aligned to 16; zeros where
// not `wanted`. Landed once CopyWait has returned, for the thread that asked.
SIMT_DEVICE void CopyAsync16(void* shared, const void* global, bool wanted) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t bytes = wanted ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(at), "l"(global), "r"(bytes)
               : "memory");
}
SIMT_DEVICE void CopyCommit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most kPending groups of copies have not landed.
template <int kPending>
SIMT_DEVICE void CopyWait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Two floats to bf16, nearest even; `low` in the lower half.
SIMT_DEVICE uint32_t PackBF16(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
SIMT_DEVICE float FloatOf(uint32_t bits) { return __uint_as_float(bits); }
SIMT_DEVICE uint32_t BitsOf(float value) { return __float_as_uint(value); }
SIMT_DEVICE float FastInverse(float x) { return __fdividef(1.0f, x); }
SIMT_DEVICE float FastExp(float x) { return __expf(x); }
SIMT_DEVICE float FastExp2(float x) { return exp2f(x); }

#endif

}  // namespace tidegate::kernels::simt
