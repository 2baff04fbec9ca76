// The functions behind the table's slots, by backend: `Ref` is double, `CpuF32` and `CpuBF16` are
// the fast ones. Elementwise ops of the CPU backend are in simd_ops.h, one set per instruction set.
#pragma once

#include "kernels/table.h"

namespace tidegate::kernels {

std::unique_ptr<PreparedWeights> PrepareWeightsRef(const WeightSource& source);
std::unique_ptr<PreparedWeights> PrepareWeightsCpuF32(const WeightSource& source);
std::unique_ptr<PreparedWeights> PrepareWeightsCpuBF16(const WeightSource& source);

#define TIDEGATE_KERNEL_REF(Op) void Op##Ref(const Context& context, const Op##Args& args);
#define TIDEGATE_KERNEL_CPU(Op)                                  \
  void Op##CpuF32(const Context& context, const Op##Args& args); \
  void Op##CpuBF16(const Context& context, const Op##Args& args);

TIDEGATE_KERNEL_REF(LinearForward)
TIDEGATE_KERNEL_REF(LinearBackward)
TIDEGATE_KERNEL_REF(Logits)
TIDEGATE_KERNEL_REF(LoraForward)
TIDEGATE_KERNEL_REF(LoraBackward)
TIDEGATE_KERNEL_REF(RmsNormForward)
TIDEGATE_KERNEL_REF(RmsNormBackward)
TIDEGATE_KERNEL_REF(Rope)
TIDEGATE_KERNEL_REF(AttentionForward)
TIDEGATE_KERNEL_REF(AttentionBackward)
TIDEGATE_KERNEL_REF(AttentionDecode)
TIDEGATE_KERNEL_REF(SwigluForward)
TIDEGATE_KERNEL_REF(SwigluBackward)
TIDEGATE_KERNEL_REF(GegluForward)
TIDEGATE_KERNEL_REF(GegluBackward)
TIDEGATE_KERNEL_REF(HeadLoss)
TIDEGATE_KERNEL_REF(LinearGradient)
TIDEGATE_KERNEL_REF(RmsNormGradient)
TIDEGATE_KERNEL_REF(EmbeddingGradient)
TIDEGATE_KERNEL_REF(HeadGradient)
TIDEGATE_KERNEL_REF(Embedding)
TIDEGATE_KERNEL_REF(AdamW)
TIDEGATE_KERNEL_REF(SumSquares)
TIDEGATE_KERNEL_REF(DropoutForward)
TIDEGATE_KERNEL_REF(DropoutBackward)
TIDEGATE_KERNEL_REF(Convert)

TIDEGATE_KERNEL_CPU(LinearForward)
TIDEGATE_KERNEL_CPU(LinearBackward)
TIDEGATE_KERNEL_CPU(Logits)
TIDEGATE_KERNEL_CPU(LoraForward)
TIDEGATE_KERNEL_CPU(LoraBackward)
TIDEGATE_KERNEL_CPU(AttentionForward)
TIDEGATE_KERNEL_CPU(AttentionBackward)
TIDEGATE_KERNEL_CPU(AttentionDecode)
TIDEGATE_KERNEL_CPU(HeadLoss)
TIDEGATE_KERNEL_CPU(LinearGradient)
TIDEGATE_KERNEL_CPU(RmsNormGradient)
TIDEGATE_KERNEL_CPU(EmbeddingGradient)
TIDEGATE_KERNEL_CPU(HeadGradient)
TIDEGATE_KERNEL_CPU(Embedding)

#undef TIDEGATE_KERNEL_REF
#undef TIDEGATE_KERNEL_CPU

}  // namespace tidegate::kernels
