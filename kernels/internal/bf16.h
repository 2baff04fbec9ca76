#pragma once

#include <cstdint>

namespace tidegate::kernels {

// A bf16 in memory, for the types of CUDA kernels.
struct BF16 {
  uint16_t bits;
};

}  // namespace tidegate::kernels
