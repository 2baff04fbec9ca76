#include "model/base_import.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "model/base_import_parts.h"
#include "model/new_folder.h"

namespace tidegate::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Metadata holds 32-bit floats. The decimal that a person wrote (1e-05) is the shortest that reads
// back to the same one (9.999999747378752e-06).
double AsWritten(double value) {
  const auto narrow = static_cast<float>(value);
  if (static_cast<double>(narrow) != value) return value;
  const std::string text = fmt::format("{}", narrow);
  double out = value;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}

// Keys of the model are named after its architecture ("llama.block_count"); those of the tokenizer
// are whole.
class MetadataReader {
 public:
  MetadataReader(const tensor::GgufFile& gguf, std::string_view architecture, std::string_view what)
      : gguf_(gguf), architecture_(architecture), what_(what) {}

  std::string Key(std::string_view name) const { return fmt::format("{}.{}", architecture_, name); }

  // A size of the model; `fallback` below zero means that the key must be there.
  Result<int64_t> Size(std::string_view name, int64_t fallback = -1) const {
    const std::string key = Key(name);
    if (fallback >= 0 && !gguf_.Has(key)) return fallback;
    TG_ASSIGN_OR_RETURN(const uint64_t value, gguf_.GetUnsigned(key));
    if (value > (1ull << 32)) return DataLoss("{}: {} is {}", what_, key, value);
    return static_cast<int64_t>(value);
  }

  Result<double> Number(std::string_view name, double fallback) const {
    const std::string key = Key(name);
    if (!gguf_.Has(key)) return fallback;
    TG_ASSIGN_OR_RETURN(const double value, gguf_.GetFloat(key));
    return AsWritten(value);
  }

  Result<std::optional<int32_t>> TokenId(std::string_view key) const {
    if (!gguf_.Has(key)) return std::optional<int32_t>();
    TG_ASSIGN_OR_RETURN(const uint64_t value, gguf_.GetUnsigned(key));
    if (value > INT32_MAX) return DataLoss("{}: {} is {}", what_, key, value);
    return std::optional<int32_t>(static_cast<int32_t>(value));
  }

 private:
  const tensor::GgufFile& gguf_;
  std::string_view architecture_, what_;
};

Status ReadRope(const tensor::GgufFile& gguf, const MetadataReader& reader, std::string_view what,
                RopeConfig* rope) {
  TG_ASSIGN_OR_RETURN(rope->theta, reader.Number("rope.freq_base", 10000.0));
  if (gguf.Find("rope_freqs.weight") != nullptr) {
    return Unsupported(
        "{}: RoPE is scaled by the tensor \"rope_freqs.weight\" (Llama 3.1 and later), from which "
        "the configuration cannot be read back; import the model's Hugging Face folder",
        what);
  }
  const std::string type_key = reader.Key("rope.scaling.type");
  if (!gguf.Has(type_key)) return OkStatus();
  TG_ASSIGN_OR_RETURN(const std::string_view type, gguf.GetString(type_key));
  if (type == "none") return OkStatus();
  if (type != "linear") {
    return Unsupported("{}: RoPE scaling \"{}\" is not supported; linear is", what, type);
  }
  rope->type = RopeType::kLinear;
  TG_ASSIGN_OR_RETURN(rope->factor, reader.Number("rope.scaling.factor", 1.0));
  return OkStatus();
}

Status ReadTokenIds(const MetadataReader& reader, ModelConfig* config) {
  TG_ASSIGN_OR_RETURN(config->bos_id, reader.TokenId("tokenizer.ggml.bos_token_id"));
  TG_ASSIGN_OR_RETURN(config->pad_id, reader.TokenId("tokenizer.ggml.padding_token_id"));
  // An end of turn, where it is not the end of sequence, ends an answer too.
  for (const auto* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    TG_ASSIGN_OR_RETURN(const std::optional<int32_t> id, reader.TokenId(key));
    if (id && (config->eos_ids.empty() || config->eos_ids[0] != *id)) {
      config->eos_ids.push_back(*id);
    }
  }
  return OkStatus();
}

std::string GenerationConfig(const ModelConfig& config) {
  json out = {{"_from_model_config", true}};
  if (config.bos_id) out["bos_token_id"] = *config.bos_id;
  if (config.pad_id) out["pad_token_id"] = *config.pad_id;
  if (config.eos_ids.size() == 1) out["eos_token_id"] = config.eos_ids[0];
  if (config.eos_ids.size() > 1) out["eos_token_id"] = config.eos_ids;
  return out.dump(2) + "\n";
}

std::string TransformersName(tensor::DType dtype) {
  return dtype == tensor::DType::kF32    ? "float32"
         : dtype == tensor::DType::kBF16 ? "bfloat16"
                                         : "float16";
}

}  // namespace

Result<ModelConfig> GgufConfig(const tensor::GgufFile& gguf, std::string_view what) {
  TG_ASSIGN_OR_RETURN(const std::string_view architecture, gguf.GetString("general.architecture"));
  if (gguf.Has("general.type")) {
    TG_ASSIGN_OR_RETURN(const std::string_view type, gguf.GetString("general.type"));
    if (type != "model") {
      return Unsupported("{} is a GGUF of type \"{}\", not of a model; give the base's file", what,
                         type);
    }
  }
  if (architecture != "llama" && architecture != "qwen2" && architecture != "qwen3") {
    return Unsupported(
        "{}: the architecture \"{}\" is not supported; \"llama\", \"qwen2\" and \"qwen3\" are",
        what, architecture);
  }
  const MetadataReader reader(gguf, architecture, what);
  TG_ASSIGN_OR_RETURN(const int64_t experts, reader.Size("expert_count", 0));
  if (experts > 0) {
    return Unsupported("{}: a mixture of {} experts is not supported", what, experts);
  }
  ModelConfig c;
  c.model_type = architecture;
  c.qkv_bias = architecture == "qwen2";
  c.qk_norm = architecture == "qwen3";
  TG_ASSIGN_OR_RETURN(c.hidden_size, reader.Size("embedding_length"));
  TG_ASSIGN_OR_RETURN(c.intermediate_size, reader.Size("feed_forward_length"));
  TG_ASSIGN_OR_RETURN(c.num_layers, reader.Size("block_count"));
  TG_ASSIGN_OR_RETURN(c.num_heads, reader.Size("attention.head_count"));
  TG_ASSIGN_OR_RETURN(c.num_kv_heads, reader.Size("attention.head_count_kv", c.num_heads));
  TG_ASSIGN_OR_RETURN(c.max_positions, reader.Size("context_length"));
  TG_ASSIGN_OR_RETURN(c.rms_norm_eps, reader.Number("attention.layer_norm_rms_epsilon",
                                                    architecture == "llama" ? 1e-5 : 1e-6));
  const int64_t even_share = c.num_heads > 0 ? c.hidden_size / c.num_heads : 0;
  TG_ASSIGN_OR_RETURN(c.head_dim, reader.Size("attention.key_length", even_share));
  TG_ASSIGN_OR_RETURN(const int64_t rotated, reader.Size("rope.dimension_count", c.head_dim));
  TG_ASSIGN_OR_RETURN(const int64_t value_length,
                      reader.Size("attention.value_length", c.head_dim));
  if (rotated != c.head_dim || value_length != c.head_dim) {
    return Unsupported(
        "{}: heads of {} with {} rotated and {} for values are not supported; the "
        "three must be equal",
        what, c.head_dim, rotated, value_length);
  }
  TG_RETURN_IF_ERROR(ReadRope(gguf, reader, what, &c.rope));
  TG_ASSIGN_OR_RETURN(const tensor::GgufTensor* embedding, gguf.Get("token_embd.weight"));
  c.vocab_size = embedding->shape[0];
  c.tied = gguf.Find("output.weight") == nullptr;
  TG_RETURN_IF_ERROR(ReadTokenIds(reader, &c));
  TG_RETURN_IF_ERROR(CheckConfig(c, what));
  return c;
}

Result<ImportReport> ImportGguf(const fs::path& file, const fs::path& out_dir,
                                const ImportOptions& options) {
  if (tensor::DType d = options.dtype;
      d != tensor::DType::kF32 && d != tensor::DType::kBF16 && d != tensor::DType::kF16) {
    return InvalidArgument("weights cannot be imported as {}; F32, BF16 and F16 can be",
                           tensor::DTypeName(d));
  }
  TG_RETURN_IF_ERROR(NewFolder::CheckTarget(out_dir));
  TG_ASSIGN_OR_RETURN(const tensor::GgufFile gguf, tensor::GgufFile::Open(file));
  const std::string what = file.native();
  ImportReport report;
  TG_ASSIGN_OR_RETURN(report.config, GgufConfig(gguf, what));
  report.config.dtype = TransformersName(options.dtype);
  TG_ASSIGN_OR_RETURN(const TokenizerFiles tokenizer, GgufTokenizer(gguf, report.config, what));
  report.tokens = tokenizer.tokens;
  report.has_chat_template = tokenizer.has_chat_template;

  TG_ASSIGN_OR_RETURN(NewFolder staging, NewFolder::Create(out_dir));
  const fs::path& dir = staging.path();
  TG_RETURN_IF_ERROR(WriteGgufWeights(gguf, report.config, options.dtype, dir / "model.safetensors",
                                      what, &report));
  const std::pair<const char*, std::string> texts[] = {
      {"config.json", ToHfJson(report.config)},
      {"generation_config.json", GenerationConfig(report.config)},
      {"tokenizer.json", tokenizer.tokenizer_json},
      {"tokenizer_config.json", tokenizer.tokenizer_config_json},
      {"special_tokens_map.json", tokenizer.special_tokens_map_json}};
  for (const auto& [name, text] : texts) {
    TG_RETURN_IF_ERROR(WriteFileDurably(dir / name, AsBytes(text)));
  }
  TG_RETURN_IF_ERROR(staging.Publish());
  return report;
}

}  // namespace tidegate::model
