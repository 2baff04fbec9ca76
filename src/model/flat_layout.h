// All weights of a decoder in one flat buffer, for training every one of them: the same offsets for
// weights, gradients and moments. In the order in which a pass forward reads them (embedding,
// layers, final norm, head), so that gradients are final from the end on. Thread-safety: values.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/adapter.h"
#include "model/config.h"
#include "tensor/safetensors.h"

namespace tidegate::model {

// Elements at whose multiples a tensor begins: 64 bytes at least in any type, and no kernel works
// on a part of a vector.
inline constexpr int64_t kFlatAlignment = 64;

struct FlatTensor {
  std::string name;  // as in HF's files
  tensor::Shape shape;
  int64_t offset;  // elements from the start of the buffer
  int64_t count;
};

// Offsets; -1 where the architecture has no such tensor.
struct LayerOffsets {
  int64_t begin = -1;  // of the layer's first tensor
  std::array<int64_t, kModulesPerLayer> linear{}, bias{};
  int64_t input_norm = -1, mlp_norm = -1, q_norm = -1, k_norm = -1;
};

struct FlatLayout {
  std::vector<FlatTensor> tensors;  // ascending offsets
  int64_t embedding = -1, final_norm = -1;
  int64_t head = -1;  // the embedding's where they are tied
  std::vector<LayerOffsets> layers;
  int64_t count = 0;  // elements of the buffer; what no tensor covers is zero
};

// `multiple` (>= 1): what `count` is rounded up to a multiple of.
FlatLayout LayOutFlat(const ModelConfig& config, int64_t multiple);

}  // namespace tidegate::model
