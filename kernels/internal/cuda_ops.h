// The functions behind the slots of the CUDA tables; T is float or BF16.
#pragma once

#include "kernels/internal/bf16.h"
#include "kernels/internal/weights.h"
#include "kernels/table.h"

namespace tidegate::kernels {

#define TIDEGATE_KERNEL_CUDA(Op) \
  template <typename T>          \
  void Op##Cuda(const Context& context, const Op##Args& args);

TIDEGATE_KERNEL_CUDA(LinearForward)
TIDEGATE_KERNEL_CUDA(LinearBackward)
TIDEGATE_KERNEL_CUDA(Logits)
TIDEGATE_KERNEL_CUDA(LoraForward)
TIDEGATE_KERNEL_CUDA(LoraBackward)
TIDEGATE_KERNEL_CUDA(RmsNormForward)
TIDEGATE_KERNEL_CUDA(RmsNormBackward)
TIDEGATE_KERNEL_CUDA(Rope)
TIDEGATE_KERNEL_CUDA(AttentionForward)
TIDEGATE_KERNEL_CUDA(AttentionBackward)
TIDEGATE_KERNEL_CUDA(AttentionDecode)
TIDEGATE_KERNEL_CUDA(SwigluForward)
TIDEGATE_KERNEL_CUDA(SwigluBackward)
TIDEGATE_KERNEL_CUDA(GegluForward)
TIDEGATE_KERNEL_CUDA(GegluBackward)
TIDEGATE_KERNEL_CUDA(HeadLoss)
TIDEGATE_KERNEL_CUDA(LinearGradient)
TIDEGATE_KERNEL_CUDA(RmsNormGradient)
TIDEGATE_KERNEL_CUDA(EmbeddingGradient)
TIDEGATE_KERNEL_CUDA(HeadGradient)
TIDEGATE_KERNEL_CUDA(Embedding)
TIDEGATE_KERNEL_CUDA(DropoutForward)
TIDEGATE_KERNEL_CUDA(DropoutBackward)
TIDEGATE_KERNEL_CUDA(Convert)

#undef TIDEGATE_KERNEL_CUDA

void AdamWCuda(const Context& context, const AdamWArgs& args);
void SumSquaresCuda(const Context& context, const SumSquaresArgs& args);

// out[n] += the rows of partial[rows, n], in order.
void AddColumnSums(const Context& context, const float* partial, int64_t rows, int64_t n,
                   float* out);
// out[n] += the rows of x[m, n], in an order that depends on m alone.
template <typename T>
void AddRowSums(const Context& context, const T* x, int64_t m, int64_t n, float* out);

// out[ids[i]] += sign · weights[i] · x[i] for each row of x[m, k] in order; null weights mean 1.
template <typename T>
void AddRowsById(const Context& context, int64_t m, int64_t k, const int32_t* ids, const T* x,
                 const float* weights, float sign, float* out);

// Weights on a device; kNf4Double has the values of its scale codes beside it.
class CudaWeights : public StoredWeights {
 public:
  explicit CudaWeights(const WeightSource& source);
  ~CudaWeights() override;
  CudaWeights(const CudaWeights&) = delete;
  CudaWeights& operator=(const CudaWeights&) = delete;
  const float* scale_map() const { return scale_map_; }

 private:
  float* scale_map_ = nullptr;
};
template <typename T>
std::unique_ptr<PreparedWeights> PrepareWeightsCuda(const WeightSource& source);

// Rows begin … begin+rows-1 of the weights as T: where they lie, or unpacked into scratch that
// lasts as long as the caller's scope.
template <typename T>
const T* WeightRows(const Context& context, const PreparedWeights* w, int64_t begin, int64_t rows);

template <typename T>
constexpr DType kTypeOf = sizeof(T) == 2 ? DType::kBF16 : DType::kF32;

}  // namespace tidegate::kernels
