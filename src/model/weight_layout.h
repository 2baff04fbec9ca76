// Which tensors the folder of a base holds, as its config.json describes it.
// Thread-safety: values.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "model/config.h"
#include "tensor/safetensors.h"

namespace tidegate::model {

struct WeightSpec {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  tensor::Shape shape;
};

// Every tensor of the architecture: embeddings, layers, final norm, the head unless it is tied.
std::vector<WeightSpec> WeightsOf(const ModelConfig& config);

// Refuses a folder in which one is missing, has another shape or is not F32, F16 or BF16, and one
// that holds a tensor which the architecture has no place for: it would change what the model
// computes elsewhere. (Rotary tables of old files are let pass, and the head of a tied model.)
Status CheckWeights(const ModelConfig& config, const tensor::SafetensorsFolder& folder);

}  // namespace tidegate::model
