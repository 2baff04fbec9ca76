// The vector loops for SSE4.2, which every machine has.
#include "kernels/internal/simd_body.h"

namespace tidegate::kernels {

constinit const SimdOps kSimdSse4F32 = MakeSimdOps<float>();

}  // namespace tidegate::kernels
