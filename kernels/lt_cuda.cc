#include "kernels/internal/cuda_lt.h"

namespace tidegate::kernels {

const LtApi* Lt() { return LoadCublasLt(); }

}  // namespace tidegate::kernels
