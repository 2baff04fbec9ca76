// A launched grid, as the emulator's streams hold it.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace tidegate::kernels::simt {

struct Grid {
  dim3 grid, block;
  size_t shared;
  std::function<void()> thread;
};

}  // namespace tidegate::kernels::simt
