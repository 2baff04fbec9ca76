// The device as the host's code sees it: errors, streams, memory.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/table.h"

namespace tidegate::kernels {

// Throws DeviceError that names `what` and the error.
void CheckCuda(cudaError_t error, const char* what);

inline cudaStream_t StreamOf(const Context& context) {
  return static_cast<cudaStream_t>(context.stream);
}

const Device& CudaDevice();
int MultiprocessorCount();

}  // namespace tidegate::kernels
