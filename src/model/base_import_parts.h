// The parts of ImportGguf. Internal to the import.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "model/base_import.h"
#include "tensor/gguf.h"

namespace tidegate::model {

// The shape of the model, from metadata and the embedding's rows. `what` names the file.
Result<ModelConfig> GgufConfig(const tensor::GgufFile& gguf, std::string_view what);

// The JSON texts of a tokenizer's files.
struct TokenizerFiles {
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string special_tokens_map_json;
  int64_t tokens = 0;
  bool has_chat_template = false;
};
Result<TokenizerFiles> GgufTokenizer(const tensor::GgufFile& gguf, const ModelConfig& config,
                                     std::string_view what);

// Writes model.safetensors; fills tensors, weights and source_types of the report.
Status WriteGgufWeights(const tensor::GgufFile& gguf, const ModelConfig& config,
                        tensor::DType dtype, const std::filesystem::path& path,
                        std::string_view what, ImportReport* report);

}  // namespace tidegate::model
