// The frozen weights of a decoder, in one activation type, as the engine reads them. Internal to
// src/model: users hold a Base (model/transformer.h).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "model/adapter.h"
#include "model/config.h"
#include "model/flat_layout.h"
#include "model/memory.h"
#include "model/transformer.h"
#include "tensor/safetensors.h"

namespace tidegate::model {

// The table to compute with, or what is missing for it.
Result<const kernels::KernelTable*> TableOf(const ComputeOptions& options);
// kF32, which is not quantized, for kNone.
kernels::WeightFormat FormatOf(Quantization quantization);

struct LayerWeights {
  std::array<std::unique_ptr<kernels::PreparedWeights>, kModulesPerLayer> linear;  // by Module
  std::array<const void*, kModulesPerLayer> bias{};                                // [out] or null
  const void* input_norm = nullptr;                                                // [hidden]
  const void* mlp_norm = nullptr;                                                  // [hidden]
  const void* q_norm = nullptr;                                                    // [head_dim]
  const void* k_norm = nullptr;                                                    // or null
};

// Immutable after Load, so thread-safe. All weights are copies, also where the stored type is the
// activation type: a mapped file is on small pages, which decoding would feel.
class LoadedBase final : public Base {
 public:
  static Result<std::shared_ptr<const LoadedBase>> Load(const std::filesystem::path& dir,
                                                        const ComputeOptions& options);
  // Over weights that lie in one buffer of `options.dtype`, where the kernels read it: they may
  // change between passes. Both must outlive the base.
  static Result<std::shared_ptr<const LoadedBase>> Over(const ModelConfig& config,
                                                        const ComputeOptions& options,
                                                        const FlatLayout& layout,
                                                        const std::byte* weights);

  const ModelConfig& config() const override { return config_; }
  const ComputeOptions& compute() const override { return options_; }
  const kernels::KernelTable& table() const { return *table_; }

  const kernels::WeightSource& embedding() const { return embedding_; }
  const std::vector<LayerWeights>& layers() const { return layers_; }
  const void* final_norm() const { return final_norm_; }
  const kernels::PreparedWeights* head() const { return head_.get(); }

 private:
  LoadedBase(ModelConfig config, const ComputeOptions& options, const kernels::KernelTable* table,
             std::optional<tensor::SafetensorsFolder> folder);
  void PointInto(const FlatLayout& layout, const std::byte* weights);
  Status LoadAll();
  Status LoadLayer(int64_t index);
  // Numbers of the host where the kernels read them: where they are, or on the device.
  const void* Resident(const std::byte* numbers, size_t bytes);
  // Room on the host for numbers that are about to be made: for good, or until the next call where
  // they go on to a device.
  std::byte* Room(size_t bytes);
  // The tensor in this type, checked for finite values.
  Result<const void*> Plain(const std::string& name, kernels::DType held);
  // A matrix in the activation type; bf16 stays bf16 where the kernels widen it as they multiply.
  Result<kernels::WeightSource> Matrix(const std::string& name, int64_t n, int64_t k);
  // A linear layer's weights: as Matrix, or quantized from what is stored.
  Result<kernels::WeightSource> Linear(const std::string& name, int64_t n, int64_t k);

  ModelConfig config_;
  ComputeOptions options_;
  const kernels::KernelTable* table_;
  std::optional<tensor::SafetensorsFolder> folder_;  // none over a buffer
  Arena owned_;
  AlignedBuffer floats_, passing_;  // of one tensor, while loading
  kernels::WeightSource embedding_{};
  std::vector<LayerWeights> layers_;
  const void* final_norm_ = nullptr;
  std::unique_ptr<kernels::PreparedWeights> head_;
};

}  // namespace tidegate::model
