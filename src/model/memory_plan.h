// What training on a base takes of memory, from its configuration alone: what `tidegate doctor
// --base` says before a run. Thread-safe: pure functions.
#pragma once

#include <cstdint>

#include "model/adapter.h"
#include "model/config.h"
#include "model/transformer.h"

namespace tidegate::model {

// Of all weights as they are held.
uint64_t WeightBytes(const ModelConfig& config, const ComputeOptions& compute);

struct MemoryQuestion {
  ComputeOptions compute;
  EngineOptions engine;
  LoraConfig lora;
  int64_t rows = 1024;  // tokens of a micro-batch, each of them a target
};

// Bytes, at the highest point of a run. What was measured is 0.89 to 0.96 of the total
// (docs/memory.md).
struct MemoryPlan {
  uint64_t weights = 0;      // as they are held
  uint64_t loading = 0;      // the largest matrix as floats, while quantizing; gone when training
  uint64_t adapter = 0;      // parameters, moments, gradients, compute copies, a checkpoint's image
  uint64_t activations = 0;  // of one micro-batch
  uint64_t scratch = 0;      // of the kernels
  uint64_t program = 0;      // code, generated code, tokenizer
  uint64_t total() const;
};

MemoryPlan PlanTraining(const ModelConfig& config, const MemoryQuestion& question);

}  // namespace tidegate::model
