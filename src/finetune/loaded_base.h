// A base folder in memory with what goes with it. The weights are shared and immutable; the object
// is moved, not copied. Not thread-safe.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/chat_template.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "model/transformer.h"

namespace tidegate::finetune {

// How the base's linear layers are held, as transformers' BitsAndBytesConfig names it. NF4 is the
// one 4-bit type.
struct HeldWeights {
  bool load_in_8bit = false;
  bool load_in_4bit = false;
  bool bnb_4bit_use_double_quant = true;  // the block scales in 8 bits too
};
// Both at once are refused.
Result<model::Quantization> QuantizationOf(const HeldWeights& held);

// Copies share what is loaded.
struct LoadedBase {
  // Reads config.json, *.safetensors, tokenizer.json and the chat template where there is one.
  // `dtype` is "auto", "bf16" or "f32", `device` "cpu" or "cuda".
  static Result<LoadedBase> Load(const std::filesystem::path& dir, const std::string& dtype,
                                 int threads, const HeldWeights& held = {},
                                 const std::string& device = "cpu");

  // The same without the weights (`base` stays null): for what only looks at text.
  static Result<LoadedBase> LoadText(const std::filesystem::path& dir);

  const kernels::KernelTable& kernels() const;
  // For what lies in the host's memory, whatever computes: an adapter's masters and moments.
  const kernels::KernelTable& host_kernels() const;
  // What the base leaves where it lies, for keys and values: of `host_free` bytes that the host had
  // before it was loaded, or of its device's memory now.
  Result<uint64_t> FreeBytes(uint64_t host_free) const;
  std::string dtype_name() const;  // "bf16", "f32", or with what is quantized: "bf16, base in nf4"

  std::filesystem::path dir;
  model::ModelConfig config;
  std::shared_ptr<const model::Base> base;
  std::shared_ptr<const model::Tokenizer> tokenizer;
  std::shared_ptr<const model::ChatTemplate> chat;  // none: only records without messages
  model::RenderOptions render;                      // bos and eos token as the base names them
  std::vector<int32_t> stop_ids;                    // tokens that end an answer, sorted
  std::string base_checksum;                        // XXH64 of config.json and all *.safetensors
  std::string tokenizer_checksum;                   // XXH64 of the tokenizer's and template's files
};

}  // namespace tidegate::finetune
