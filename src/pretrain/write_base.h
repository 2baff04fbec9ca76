// The result of pretraining as an HF folder: config.json, model.safetensors and the tokenizer.
// Thread-safety: a function of its arguments.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "base/status.h"
#include "model/config.h"
#include "model/flat_layout.h"

namespace tidegate::pretrain {

// Durably and at once: `target` is whole or not there; kAlreadyExists where something is. `dtype`
// is "bf16" or "f32"; the tokenizer's files come from `tokenizer`, unless that is empty.
Status WriteBase(const std::filesystem::path& target, const model::ModelConfig& config,
                 const model::FlatLayout& layout, std::span<const float> masters,
                 const std::string& dtype, const std::filesystem::path& tokenizer);

}  // namespace tidegate::pretrain
