// The tables of the CUDA backend, and whether this machine can use them.
#include <cuda_runtime_api.h>

#include <string>

#include "kernels/internal/cuda_device.h"
#include "kernels/internal/cuda_lt.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_table.h"

namespace tidegate::kernels {
namespace {

template <typename T>
KernelTable MakeTable(const char* isa) {
  return {
      .backend = Backend::kCuda,
      .dtype = kTypeOf<T>,
      .isa = isa,
      .device = &CudaDevice(),
      .prepare_weights = PrepareWeightsCuda<T>,
      .linear_forward = LinearForwardCuda<T>,
      .linear_backward = LinearBackwardCuda<T>,
      .logits = LogitsCuda<T>,
      .lora_forward = LoraForwardCuda<T>,
      .lora_backward = LoraBackwardCuda<T>,
      .rmsnorm_forward = RmsNormForwardCuda<T>,
      .rmsnorm_backward = RmsNormBackwardCuda<T>,
      .rope = RopeCuda<T>,
      .attention_forward = AttentionForwardCuda<T>,
      .attention_backward = AttentionBackwardCuda<T>,
      .attention_decode = AttentionDecodeCuda<T>,
      .swiglu_forward = SwigluForwardCuda<T>,
      .swiglu_backward = SwigluBackwardCuda<T>,
      .geglu_forward = GegluForwardCuda<T>,
      .geglu_backward = GegluBackwardCuda<T>,
      .head_loss = HeadLossCuda<T>,
      .linear_gradient = LinearGradientCuda<T>,
      .rmsnorm_gradient = RmsNormGradientCuda<T>,
      .embedding_gradient = EmbeddingGradientCuda<T>,
      .head_gradient = HeadGradientCuda<T>,
      .embedding = EmbeddingCuda<T>,
      .adamw = AdamWCuda,
      .sum_squares = SumSquaresCuda,
      .dropout_forward = DropoutForwardCuda<T>,
      .dropout_backward = DropoutBackwardCuda<T>,
      .convert = ConvertCuda<T>,
  };
}

// What the first device can do, asked once.
struct Machine {
  std::string missing;  // empty: all there
  std::string isa;
};

Machine Look() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    cudaGetLastError();
    return {std::string("no usable GPU: ") +
                (error != cudaSuccess ? cudaGetErrorString(error) : "the driver lists none"),
            ""};
  }
  int major = 0, minor = 0;
  CheckCuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "asking a GPU");
  CheckCuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "asking a GPU");
  if (major < 8) {
    return {"the GPU's compute capability is " + std::to_string(major) + "." +
                std::to_string(minor) + ", at least 8.0 is needed",
            ""};
  }
  if (Lt() == nullptr) return {"the library cublasLt cannot be loaded; install CUDA's cuBLAS", ""};
  return {"", "sm_" + std::to_string(major) + std::to_string(minor)};
}

const Machine& ThisMachine() {
  static const Machine machine = Look();
  return machine;
}

}  // namespace

const KernelTable* CudaTable(DType dtype) {
  const Machine& machine = ThisMachine();
  if (!machine.missing.empty() || dtype == DType::kF64) return nullptr;
  static const KernelTable floats = MakeTable<float>(machine.isa.c_str());
  static const KernelTable halves = MakeTable<BF16>(machine.isa.c_str());
  return dtype == DType::kF32 ? &floats : &halves;
}

const char* WhyNoCuda() { return ThisMachine().missing.c_str(); }

}  // namespace tidegate::kernels
