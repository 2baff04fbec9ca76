// GGUF model files made into Hugging Face folders: what `tidegate base import` does.
//
// The folder has config.json, generation_config.json, model.safetensors, tokenizer.json,
// tokenizer_config.json (with the chat template) and special_tokens_map.json; transformers and this
// project load it. Read are files of the architecture "llama" (Llama, SmolLM2, Mistral) with a
// byte-level BPE tokenizer; see docs/formats/base.md. Source of the layout: ggml docs/gguf.md and
// llama.cpp's converter, whose permutation of the rows of q and k is undone.
//
// Thread-safety: pure but for the files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "base/status.h"
#include "model/config.h"
#include "tensor/dtype.h"

namespace tidegate::model {

struct ImportOptions {
  // Of the weights written: kBF16, kF32 (exactly what the file decodes to) or kF16.
  tensor::DType dtype = tensor::DType::kBF16;
};

struct ImportReport {
  ModelConfig config;
  int64_t tensors = 0;
  int64_t weights = 0;                          // elements
  std::map<std::string, int64_t> source_types;  // ggml type -> tensors, e.g. "Q4_1" -> 210
  int64_t tokens = 0;                           // ids of the tokenizer
  bool has_chat_template = false;
};

// The folder appears whole, by a rename, or not at all; it must not exist, or be empty
// (kAlreadyExists). kUnsupported names an architecture, tokenizer, pre-tokenizer, RoPE scaling or
// tensor that is not built; kDataLoss a damaged file, a tensor of another shape than the metadata
// says, or a weight that is not finite; kInvalidArgument a weight too large for `dtype`. Memory: a
// few MiB beside the tokenizer, whatever the model's size.
Result<ImportReport> ImportGguf(const std::filesystem::path& file,
                                const std::filesystem::path& out_dir, const ImportOptions& options);

}  // namespace tidegate::model
