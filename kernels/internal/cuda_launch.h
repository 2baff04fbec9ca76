// Launching CUDA kernels from the files that hold them.
#pragma once

#include <cstdint>

#include "kernels/internal/cuda_device.h"
#include "kernels/internal/simt.h"

namespace tidegate::kernels {

// Queues a grid of blocks of `threads`; none where there is nothing to do.
template <typename... P>
void Launch(const Context& context, const char* name, void (*kernel)(P...), dim3 grid, int threads,
            size_t shared, std::type_identity_t<P>... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  CheckCuda(simt::TryLaunch(kernel, grid, dim3(static_cast<unsigned>(threads)), shared,
                            StreamOf(context), args...),
            name);
}

inline unsigned BlocksFor(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

inline bool Aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
template <typename... P>
bool AllAligned16(const P*... pointers) {
  return (Aligned16(pointers) && ...);
}

}  // namespace tidegate::kernels
