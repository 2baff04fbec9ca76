// The vector loops for AVX-512 (F, BW, VL, DQ).
#include "kernels/internal/simd_body.h"

namespace tidegate::kernels {

constinit const SimdOps kSimdAvx512F32 = MakeSimdOps<float>();

}  // namespace tidegate::kernels
