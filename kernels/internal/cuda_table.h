// What a build with CUDA and one without both have.
#pragma once

#include "kernels/table.h"

namespace tidegate::kernels {

// Null where the build or the machine has no CUDA. The first call looks for a device.
const KernelTable* CudaTable(DType dtype);

}  // namespace tidegate::kernels
