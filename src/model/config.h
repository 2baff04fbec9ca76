// config.json of a Hugging Face causal language model: parsed, judged and written back.
// Thread-safety: values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tidegate::model {

enum class RopeType : uint8_t { kDefault = 0, kLinear = 1, kLlama3 = 2, kYarn = 3 };

// Rotary position embedding (transformers modeling_rope_utils.py). inv_freq_i = theta^(-2i/d),
// divided by `factor` for kLinear, by wavelength for kLlama3, by how often the original positions
// turn it for kYarn (arXiv:2309.00071).
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 0;
  double beta_fast = 32.0;        // kYarn: turned more often than this, a frequency is kept
  double beta_slow = 1.0;         // less often: divided
  bool truncate = true;           // the ramp between them begins and ends at whole dimensions
  double attention_factor = 1.0;  // of cosines and sines
};

// The shape of a decoder of the Llama family, of which Mistral, Qwen2 (and 2.5) and Qwen3 are. q
// has num_heads * head_dim outputs, which may differ from hidden_size; k and v have num_kv_heads *
// head_dim.
struct ModelConfig {
  std::string model_type = "llama";  // "mistral", "qwen2", "qwen3"
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;  // tokens
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool tied = false;      // lm_head is embed_tokens
  bool qkv_bias = false;  // which linear layers have a bias
  bool o_bias = false;
  bool mlp_bias = false;  // gate, up and down
  bool qk_norm = false;   // RMSNorm over each head of q and of k, before RoPE (Qwen3)
  std::optional<int32_t> bos_id;
  std::vector<int32_t> eos_ids;  // any of them ends a turn; may be empty
  std::optional<int32_t> pad_id;
  std::string dtype = "float32";  // of the stored weights, informational

  int64_t q_size() const { return num_heads * head_dim; }
  int64_t kv_size() const { return num_kv_heads * head_dim; }
  // Elements of all weights, biases included, the tied head counted once.
  int64_t num_parameters() const;
};

// Reads the keys of transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters,
// dtype); keys that do not change the computation are ignored. kUnsupported names an architecture
// or feature that is known and not built, kInvalidArgument a missing or absurd value, with its
// limit. `what` names the file in errors.
Result<ModelConfig> ParseHfConfig(std::string_view json_text, std::string_view what);
Result<ModelConfig> LoadHfConfig(const std::filesystem::path& path);

// Refuses sizes beyond what the engine is built for, naming the field and its range.
Status CheckConfig(const ModelConfig& config, std::string_view what);

// A config.json that transformers 4 and 5 load; the same bytes for the same config.
std::string ToHfJson(const ModelConfig& config);

}  // namespace tidegate::model
