#include "model/memory_plan.h"

#include <algorithm>

#include "kernels/quantize.h"
#include "model/activations.h"
#include "model/weights.h"

namespace tidegate::model {
namespace {

// Parameters in four copies of floats (the adapter's, the run's, its two moments), gradients of the
// window twice (accumulators and what the optimizer reads), and the state as it is written.
constexpr uint64_t kAdapterBytes = 4 * 4 + 2 * 4 + 3 * 4;

// Measured: a finetune process with a model of 1 MiB.
constexpr uint64_t kProgramBytes = 96ull << 20;

// The tile of the head (kernels/head_loss_cpu.cc): as many rows of as many words, twice, and the
// rows' gradients in floats.
constexpr uint64_t kHeadTile = 512;

uint64_t Count(const ModuleShape& shape) { return static_cast<uint64_t>(shape.in * shape.out); }

uint64_t MatrixBytes(const ModuleShape& shape, const ComputeOptions& compute) {
  const uint64_t quantized =
      kernels::QuantizedBytes(FormatOf(compute.quantization), shape.out, shape.in);
  return quantized > 0 ? quantized : Count(shape) * kernels::SizeOf(compute.dtype);
}

// Elements of the largest matrix of a layer.
uint64_t LargestMatrix(const ModelConfig& config) {
  uint64_t largest = 0;
  for (int i = 0; i < kModulesPerLayer; ++i) {
    largest = std::max(largest, Count(ShapeOf(config, static_cast<Module>(i))));
  }
  return largest;
}

}  // namespace

uint64_t WeightBytes(const ModelConfig& config, const ComputeOptions& compute) {
  const uint64_t layers = static_cast<uint64_t>(config.num_layers);
  uint64_t linear = 0, held = 0;
  for (int i = 0; i < kModulesPerLayer; ++i) {
    const ModuleShape shape = ShapeOf(config, static_cast<Module>(i));
    linear += Count(shape) * layers;
    held += MatrixBytes(shape, compute) * layers;
  }
  const uint64_t others = static_cast<uint64_t>(config.num_parameters()) - linear;
  return held + others * kernels::SizeOf(compute.dtype);
}

uint64_t MemoryPlan::total() const {
  // Activations come after the loading is over.
  return weights + adapter + program + std::max(loading, activations + scratch);
}

MemoryPlan PlanTraining(const ModelConfig& config, const MemoryQuestion& question) {
  const kernels::DType dtype = question.compute.dtype;
  const uint64_t element = kernels::SizeOf(dtype);
  MemoryPlan plan;
  plan.program = kProgramBytes;
  plan.weights = WeightBytes(config, question.compute);
  if (question.compute.quantization != Quantization::kNone) {
    plan.loading = LargestMatrix(config) * sizeof(float);
    plan.scratch = LargestMatrix(config) * element;
  }
  const auto tensors = AdapterLayout(config, question.lora);
  const int64_t parameters = tensors.empty() ? 0 : tensors.back().offset + tensors.back().count();
  plan.adapter = static_cast<uint64_t>(parameters) * (kAdapterBytes + element);
  const Purpose purpose =
      question.engine.gradient_checkpointing ? Purpose::kTrainCheckpoint : Purpose::kTrain;
  const AdaptedModules modules(config, tensors);
  plan.activations = ActivationArena(config, modules, question.lora.dropout > 0, false, dtype)
                         .BytesFor(question.rows, question.rows, purpose);
  plan.scratch +=
      kHeadTile * (kHeadTile * (4 + element) + static_cast<uint64_t>(config.hidden_size) * 4);
  return plan;
}

}  // namespace tidegate::model
