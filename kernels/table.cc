#include "kernels/table.h"

#include "kernels/internal/cpu.h"
#include "kernels/internal/cuda_table.h"
#include "kernels/internal/matmul.h"
#include "kernels/internal/ops.h"
#include "kernels/internal/simd_ops.h"

namespace tidegate::kernels {
namespace {

constexpr KernelTable kReference = {
    .backend = Backend::kRef,
    .dtype = DType::kF64,
    .isa = "reference",
    .device = nullptr,
    .prepare_weights = PrepareWeightsRef,
    .linear_forward = LinearForwardRef,
    .linear_backward = LinearBackwardRef,
    .logits = LogitsRef,
    .lora_forward = LoraForwardRef,
    .lora_backward = LoraBackwardRef,
    .rmsnorm_forward = RmsNormForwardRef,
    .rmsnorm_backward = RmsNormBackwardRef,
    .rope = RopeRef,
    .attention_forward = AttentionForwardRef,
    .attention_backward = AttentionBackwardRef,
    .attention_decode = AttentionDecodeRef,
    .swiglu_forward = SwigluForwardRef,
    .swiglu_backward = SwigluBackwardRef,
    .geglu_forward = GegluForwardRef,
    .geglu_backward = GegluBackwardRef,
    .head_loss = HeadLossRef,
    .linear_gradient = LinearGradientRef,
    .rmsnorm_gradient = RmsNormGradientRef,
    .embedding_gradient = EmbeddingGradientRef,
    .head_gradient = HeadGradientRef,
    .embedding = EmbeddingRef,
    .adamw = AdamWRef,
    .sum_squares = SumSquaresRef,
    .dropout_forward = DropoutForwardRef,
    .dropout_backward = DropoutBackwardRef,
    .convert = ConvertRef,
};

KernelTable CpuTable(DType dtype, const SimdOps& simd) {
  KernelTable table = {};
  table.backend = Backend::kCpu;
  table.dtype = dtype;
  table.isa = CpuIsaName(DetectCpuIsa());
  table.rmsnorm_forward = simd.rmsnorm_forward;
  table.rmsnorm_backward = simd.rmsnorm_backward;
  table.rope = simd.rope;
  table.swiglu_forward = simd.swiglu_forward;
  table.swiglu_backward = simd.swiglu_backward;
  table.geglu_forward = simd.geglu_forward;
  table.geglu_backward = simd.geglu_backward;
  table.adamw = simd.adamw;
  table.sum_squares = simd.sum_squares;
  table.dropout_forward = simd.dropout_forward;
  table.dropout_backward = simd.dropout_backward;
  table.convert = simd.convert;
  return table;
}

KernelTable CpuF32() {
  KernelTable table = CpuTable(DType::kF32, SimdF32());
  table.prepare_weights = PrepareWeightsCpuF32;
  table.linear_forward = LinearForwardCpuF32;
  table.linear_backward = LinearBackwardCpuF32;
  table.logits = LogitsCpuF32;
  table.lora_forward = LoraForwardCpuF32;
  table.lora_backward = LoraBackwardCpuF32;
  table.attention_forward = AttentionForwardCpuF32;
  table.attention_backward = AttentionBackwardCpuF32;
  table.attention_decode = AttentionDecodeCpuF32;
  table.head_loss = HeadLossCpuF32;
  table.linear_gradient = LinearGradientCpuF32;
  table.rmsnorm_gradient = RmsNormGradientCpuF32;
  table.embedding_gradient = EmbeddingGradientCpuF32;
  table.head_gradient = HeadGradientCpuF32;
  table.embedding = EmbeddingCpuF32;
  return table;
}

KernelTable CpuBF16() {
  KernelTable table = CpuTable(DType::kBF16, kSimdAvx512BF16);
  table.prepare_weights = PrepareWeightsCpuBF16;
  table.linear_forward = LinearForwardCpuBF16;
  table.linear_backward = LinearBackwardCpuBF16;
  table.logits = LogitsCpuBF16;
  table.lora_forward = LoraForwardCpuBF16;
  table.lora_backward = LoraBackwardCpuBF16;
  table.attention_forward = AttentionForwardCpuBF16;
  table.attention_backward = AttentionBackwardCpuBF16;
  table.attention_decode = AttentionDecodeCpuBF16;
  table.head_loss = HeadLossCpuBF16;
  table.linear_gradient = LinearGradientCpuBF16;
  table.rmsnorm_gradient = RmsNormGradientCpuBF16;
  table.embedding_gradient = EmbeddingGradientCpuBF16;
  table.head_gradient = HeadGradientCpuBF16;
  table.embedding = EmbeddingCpuBF16;
  return table;
}

const KernelTable* CpuF32Table() {
  static const KernelTable table = CpuF32();
  static const bool works = MatmulWorks(DType::kF32);
  return works ? &table : nullptr;
}

const KernelTable* CpuBF16Table() {
  static const KernelTable table = CpuBF16();
  static const bool works = DetectCpuIsa() >= CpuIsa::kAvx512BF16 && MatmulWorks(DType::kBF16);
  return works ? &table : nullptr;
}

}  // namespace

const KernelTable* TableFor(Backend backend, DType dtype) {
  if (backend == Backend::kRef) return dtype == DType::kF64 ? &kReference : nullptr;
  if (backend == Backend::kCuda) return CudaTable(dtype);
  switch (dtype) {
    case DType::kF32:
      return CpuF32Table();
    case DType::kBF16:
      return CpuBF16Table();
    case DType::kF64:
      return nullptr;
  }
  return nullptr;
}

}  // namespace tidegate::kernels
