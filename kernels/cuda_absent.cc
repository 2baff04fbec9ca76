// A build without CUDA.
#include "kernels/internal/cuda_table.h"

namespace tidegate::kernels {

const KernelTable* CudaTable(DType) { return nullptr; }
std::vector<std::string> OpenCudaLibraries() { return {}; }
const char* WhyNoCuda() { return "this build has no CUDA: it was configured without nvcc"; }

}  // namespace tidegate::kernels
