// The vector loops for AVX2 and FMA.
#include "kernels/internal/simd_body.h"

namespace tidegate::kernels {

constinit const SimdOps kSimdAvx2F32 = MakeSimdOps<float>();

}  // namespace tidegate::kernels
