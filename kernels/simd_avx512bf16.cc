// The vector loops for bf16 activations on AVX-512 with its bf16 instructions.
#include "kernels/internal/simd_body.h"

namespace tidegate::kernels {

constinit const SimdOps kSimdAvx512BF16 = MakeSimdOps<uint16_t>();

}  // namespace tidegate::kernels
