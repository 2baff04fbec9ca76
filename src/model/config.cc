#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"

namespace tidegate::model {
namespace {

using nlohmann::json;

// Reads typed fields of one JSON object; null and absent are the same.
class Fields {
 public:
  Fields(const json& object, std::string what) : object_(object), what_(std::move(what)) {}

  const json* Find(std::string_view key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  Result<int64_t> Integer(std::string_view key, std::optional<int64_t> fallback) const {
    const json* value = Find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      return Missing(key);
    }
    const bool fits = value->is_number_integer() &&
                      !(value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX);
    if (!fits) return InvalidArgument("{}: {} must be a whole number", what_, key);
    return value->get<int64_t>();
  }

  Result<double> Number(std::string_view key, std::optional<double> fallback) const {
    const json* value = Find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      return Missing(key);
    }
    if (!value->is_number()) return InvalidArgument("{}: {} must be a number", what_, key);
    return value->get<double>();
  }

  Result<bool> Bool(std::string_view key, bool fallback) const {
    const json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) return InvalidArgument("{}: {} must be true or false", what_, key);
    return value->get<bool>();
  }

  Result<std::string> String(std::string_view key, std::string fallback) const {
    const json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) return InvalidArgument("{}: {} must be a string", what_, key);
    return value->get<std::string>();
  }

  Error Missing(std::string_view key) const {
    return InvalidArgument("{} has no {}; give the config.json that came with the model", what_,
                           key);
  }
  const std::string& what() const { return what_; }

 private:
  const json& object_;
  std::string what_;
};

// Attention over a window of the last tokens, which every family spells in its own way.
Status RefuseSlidingWindow(const Fields& fields, const std::string& model_type) {
  const char* sign = nullptr;
  if (model_type == "mistral" && fields.Find("sliding_window") != nullptr) sign = "sliding_window";
  TG_ASSIGN_OR_RETURN(const bool used, fields.Bool("use_sliding_window", false));
  if (used) sign = "use_sliding_window";
  if (const json* types = fields.Find("layer_types"); types != nullptr) {
    const auto full = [](const json& type) { return type == json("full_attention"); };
    if (!types->is_array() || !std::all_of(types->begin(), types->end(), full)) {
      sign = "layer_types";
    }
  }
  if (sign == nullptr) return OkStatus();
  return Unsupported(
      "{}: {} asks for sliding-window attention, which is not supported; use a model whose layers "
      "all attend to the whole context",
      fields.what(), sign);
}

Status ParseFamily(const Fields& fields, ModelConfig* c) {
  TG_ASSIGN_OR_RETURN(c->model_type, fields.String("model_type", ""));
  if (c->model_type.empty()) return fields.Missing("model_type");
  TG_ASSIGN_OR_RETURN(const bool attention_bias, fields.Bool("attention_bias", false));
  TG_ASSIGN_OR_RETURN(const bool mlp_bias, fields.Bool("mlp_bias", false));
  if (c->model_type == "llama") {
    c->qkv_bias = c->o_bias = attention_bias;
    c->mlp_bias = mlp_bias;
  } else if (c->model_type == "qwen2") {
    c->qkv_bias = true;  // whatever the file says: transformers has no switch for it
  } else if (c->model_type == "qwen3") {
    c->qkv_bias = c->o_bias = attention_bias;
    c->qk_norm = true;
  } else if (c->model_type != "mistral") {
    return Unsupported(
        "{}: model_type \"{}\" is not supported; llama, mistral, qwen2 and qwen3 are",
        fields.what(), c->model_type);
  }
  return RefuseSlidingWindow(fields, c->model_type);
}

// Features that change the computation and are not built.
Status RefuseFeatures(const Fields& fields) {
  TG_ASSIGN_OR_RETURN(const bool interleaved, fields.Bool("rope_interleaved", false));
  if (interleaved) {
    return Unsupported("{}: rope_interleaved = true is not supported", fields.what());
  }
  if (fields.Find("quantization_config") != nullptr) {
    return Unsupported("{}: a quantised model cannot be trained; use its F32, F16 or BF16 weights",
                       fields.what());
  }
  TG_ASSIGN_OR_RETURN(const std::string activation, fields.String("hidden_act", "silu"));
  if (activation != "silu") {
    return Unsupported("{}: hidden_act \"{}\" is not supported; silu is", fields.what(),
                       activation);
  }
  TG_ASSIGN_OR_RETURN(const double rotary, fields.Number("partial_rotary_factor", 1.0));
  if (rotary != 1.0) {
    return Unsupported("{}: partial_rotary_factor {} is not supported; 1 is", fields.what(),
                       rotary);
  }
  TG_ASSIGN_OR_RETURN(const int64_t tp, fields.Integer("pretraining_tp", 1));
  if (tp != 1) return Unsupported("{}: pretraining_tp {} is not supported", fields.what(), tp);
  return OkStatus();
}

// The factor of attention as the configuration has it, or as the paper's formula gives it.
Result<double> AttentionFactor(const Fields& scaling, double factor) {
  const auto scale = [factor](double mscale) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
  };
  TG_ASSIGN_OR_RETURN(const double mscale, scaling.Number("mscale", 0.0));
  TG_ASSIGN_OR_RETURN(const double all_dim, scaling.Number("mscale_all_dim", 0.0));
  return scaling.Number("attention_factor",
                        mscale != 0 && all_dim != 0 ? scale(mscale) / scale(all_dim) : scale(1.0));
}

Status ParseYarn(const Fields& scaling, RopeConfig* rope) {
  rope->type = RopeType::kYarn;
  // 0: the model's positions, which ParseHfConfig knows.
  TG_ASSIGN_OR_RETURN(rope->original_max_positions,
                      scaling.Integer("original_max_position_embeddings", 0));
  TG_ASSIGN_OR_RETURN(rope->beta_fast, scaling.Number("beta_fast", rope->beta_fast));
  TG_ASSIGN_OR_RETURN(rope->beta_slow, scaling.Number("beta_slow", rope->beta_slow));
  TG_ASSIGN_OR_RETURN(rope->truncate, scaling.Bool("truncate", rope->truncate));
  TG_ASSIGN_OR_RETURN(rope->attention_factor, AttentionFactor(scaling, rope->factor));
  return OkStatus();
}

Status ParseScaling(const Fields& scaling, RopeConfig* rope) {
  TG_ASSIGN_OR_RETURN(std::string type, scaling.String("rope_type", ""));
  if (type.empty()) {
    TG_ASSIGN_OR_RETURN(type, scaling.String("type", "default"));
  }
  if (type == "default") return OkStatus();
  if (type != "linear" && type != "llama3" && type != "yarn") {
    return Unsupported(
        "{}: rope type \"{}\" is not supported; default, linear, llama3 and yarn are",
        scaling.what(), type);
  }
  TG_ASSIGN_OR_RETURN(rope->factor, scaling.Number("factor", {}));
  if (type == "linear") {
    rope->type = RopeType::kLinear;
    return OkStatus();
  }
  if (type == "yarn") return ParseYarn(scaling, rope);
  rope->type = RopeType::kLlama3;
  TG_ASSIGN_OR_RETURN(rope->low_freq_factor, scaling.Number("low_freq_factor", {}));
  TG_ASSIGN_OR_RETURN(rope->high_freq_factor, scaling.Number("high_freq_factor", {}));
  TG_ASSIGN_OR_RETURN(rope->original_max_positions,
                      scaling.Integer("original_max_position_embeddings", {}));
  return OkStatus();
}

Status ParseRope(const Fields& fields, RopeConfig* rope) {
  const json* parameters = fields.Find("rope_parameters");
  const json* scaling = fields.Find("rope_scaling");
  for (const json* object : {parameters, scaling}) {
    if (object != nullptr && !object->is_object()) {
      return InvalidArgument("{}: rope_parameters and rope_scaling must be objects or null",
                             fields.what());
    }
  }
  TG_ASSIGN_OR_RETURN(rope->theta, fields.Number("rope_theta", 10000.0));
  if (parameters != nullptr) {
    const Fields inner(*parameters, fields.what() + ": rope_parameters");
    TG_ASSIGN_OR_RETURN(rope->theta, inner.Number("rope_theta", rope->theta));
    TG_ASSIGN_OR_RETURN(const double rotary, inner.Number("partial_rotary_factor", 1.0));
    if (rotary != 1.0) {
      return Unsupported("{}: partial_rotary_factor {} is not supported; 1 is", inner.what(),
                         rotary);
    }
    return ParseScaling(inner, rope);
  }
  if (scaling == nullptr) return OkStatus();
  return ParseScaling(Fields(*scaling, fields.what() + ": rope_scaling"), rope);
}

Status ParseTokenIds(const Fields& fields, ModelConfig* config) {
  const auto id_of = [&](std::string_view key, const json& value) -> Result<int32_t> {
    if (!value.is_number_integer()) {
      return InvalidArgument("{}: {} must be a token id", fields.what(), key);
    }
    const int64_t id = value.get<int64_t>();
    // The vocabulary's own bound is checked by CheckConfig.
    if (id < 0 || id > static_cast<int64_t>(kMaxVocabulary)) {
      return InvalidArgument("{}: {} is {}, which is no token id (0 to {})", fields.what(), key, id,
                             kMaxVocabulary);
    }
    return static_cast<int32_t>(id);
  };
  if (const json* bos = fields.Find("bos_token_id")) {
    TG_ASSIGN_OR_RETURN(config->bos_id, id_of("bos_token_id", *bos));
  }
  const json* pad = fields.Find("pad_token_id");
  // Some Llama files say -1 for "none".
  if (pad != nullptr && *pad != json(-1)) {
    TG_ASSIGN_OR_RETURN(config->pad_id, id_of("pad_token_id", *pad));
  }
  const json* eos = fields.Find("eos_token_id");
  if (eos == nullptr) return OkStatus();
  if (!eos->is_array()) {
    TG_ASSIGN_OR_RETURN(const int32_t id, id_of("eos_token_id", *eos));
    config->eos_ids.push_back(id);
    return OkStatus();
  }
  if (eos->size() > 16) {
    return InvalidArgument("{}: eos_token_id lists {} tokens, the limit is 16", fields.what(),
                           eos->size());
  }
  for (const json& item : *eos) {
    TG_ASSIGN_OR_RETURN(const int32_t id, id_of("eos_token_id", item));
    config->eos_ids.push_back(id);
  }
  return OkStatus();
}

Status ParseSizes(const Fields& fields, ModelConfig* c) {
  TG_ASSIGN_OR_RETURN(c->hidden_size, fields.Integer("hidden_size", {}));
  TG_ASSIGN_OR_RETURN(c->intermediate_size, fields.Integer("intermediate_size", {}));
  TG_ASSIGN_OR_RETURN(c->num_layers, fields.Integer("num_hidden_layers", {}));
  TG_ASSIGN_OR_RETURN(c->num_heads, fields.Integer("num_attention_heads", {}));
  TG_ASSIGN_OR_RETURN(c->num_kv_heads, fields.Integer("num_key_value_heads", c->num_heads));
  TG_ASSIGN_OR_RETURN(c->vocab_size, fields.Integer("vocab_size", {}));
  TG_ASSIGN_OR_RETURN(c->max_positions, fields.Integer("max_position_embeddings", {}));
  TG_ASSIGN_OR_RETURN(c->rms_norm_eps, fields.Number("rms_norm_eps", 1e-6));
  TG_ASSIGN_OR_RETURN(c->tied, fields.Bool("tie_word_embeddings", false));
  if (fields.Find("head_dim") != nullptr) {
    TG_ASSIGN_OR_RETURN(c->head_dim, fields.Integer("head_dim", {}));
    return OkStatus();
  }
  if (c->model_type == "qwen3") {
    c->head_dim = 128;  // transformers' default for the family, not hidden_size / heads
    return OkStatus();
  }
  if (c->num_heads < 1 || c->hidden_size % c->num_heads != 0) {
    return InvalidArgument(
        "{}: hidden_size {} is not a multiple of num_attention_heads {} and head_dim is not given",
        fields.what(), c->hidden_size, c->num_heads);
  }
  c->head_dim = c->hidden_size / c->num_heads;
  return OkStatus();
}

Status InRange(std::string_view what, std::string_view field, int64_t value, int64_t least,
               int64_t most) {
  if (value >= least && value <= most) return OkStatus();
  return InvalidArgument("{}: {} is {}, allowed are {} to {}; is this the model's own config.json?",
                         what, field, value, least, most);
}

Status InRange(std::string_view what, std::string_view field, double value, double least,
               double most) {
  if (std::isfinite(value) && value >= least && value <= most) return OkStatus();
  return InvalidArgument("{}: {} is {}, allowed are {} to {}; is this the model's own config.json?",
                         what, field, value, least, most);
}

Status CheckYarn(const RopeConfig& rope, std::string_view what) {
  // 1 would divide by the logarithm of one.
  TG_RETURN_IF_ERROR(InRange(what, "rope_theta of yarn", rope.theta, 1.01, 1e12));
  TG_RETURN_IF_ERROR(InRange(what, "beta_slow", rope.beta_slow, 1e-3, 1e6));
  TG_RETURN_IF_ERROR(InRange(what, "beta_fast", rope.beta_fast, 1e-3, 1e6));
  if (rope.beta_fast <= rope.beta_slow) {
    return InvalidArgument("{}: beta_fast {} must be above beta_slow {}", what, rope.beta_fast,
                           rope.beta_slow);
  }
  return InRange(what, "attention_factor", rope.attention_factor, 1e-3, 1e3);
}

Status CheckRope(const RopeConfig& rope, std::string_view what) {
  TG_RETURN_IF_ERROR(InRange(what, "rope_theta", rope.theta, 1.0, 1e12));
  if (rope.type == RopeType::kDefault) return OkStatus();
  TG_RETURN_IF_ERROR(InRange(what, "the rope factor", rope.factor, 1.0, 1024.0));
  if (rope.type == RopeType::kLinear) return OkStatus();
  TG_RETURN_IF_ERROR(
      InRange(what, "original_max_position_embeddings", rope.original_max_positions, 1, 1 << 24));
  if (rope.type == RopeType::kYarn) return CheckYarn(rope, what);
  TG_RETURN_IF_ERROR(InRange(what, "low_freq_factor", rope.low_freq_factor, 1e-3, 1e6));
  TG_RETURN_IF_ERROR(InRange(what, "high_freq_factor", rope.high_freq_factor, 1e-3, 1e6));
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    return InvalidArgument("{}: high_freq_factor {} must be above low_freq_factor {}", what,
                           rope.high_freq_factor, rope.low_freq_factor);
  }
  return OkStatus();
}

}  // namespace

int64_t ModelConfig::num_parameters() const {
  int64_t layer = 2 * hidden_size + 2 * hidden_size * q_size() + 2 * hidden_size * kv_size() +
                  3 * hidden_size * intermediate_size;
  if (qkv_bias) layer += q_size() + 2 * kv_size();
  if (o_bias) layer += hidden_size;
  if (mlp_bias) layer += 2 * intermediate_size + hidden_size;
  if (qk_norm) layer += 2 * head_dim;
  return vocab_size * hidden_size * (tied ? 1 : 2) + num_layers * layer + hidden_size;
}

Status CheckConfig(const ModelConfig& c, std::string_view what) {
  TG_RETURN_IF_ERROR(InRange(what, "hidden_size", c.hidden_size, 1, 1 << 16));
  TG_RETURN_IF_ERROR(InRange(what, "intermediate_size", c.intermediate_size, 1, 1 << 18));
  TG_RETURN_IF_ERROR(InRange(what, "num_hidden_layers", c.num_layers, 1, 512));
  TG_RETURN_IF_ERROR(InRange(what, "num_attention_heads", c.num_heads, 1, 512));
  TG_RETURN_IF_ERROR(InRange(what, "num_key_value_heads", c.num_kv_heads, 1, c.num_heads));
  TG_RETURN_IF_ERROR(InRange(what, "head_dim", c.head_dim, 2, 512));
  TG_RETURN_IF_ERROR(
      InRange(what, "vocab_size", c.vocab_size, 1, static_cast<int64_t>(kMaxVocabulary)));
  TG_RETURN_IF_ERROR(InRange(what, "max_position_embeddings", c.max_positions, 1, 1 << 24));
  TG_RETURN_IF_ERROR(InRange(what, "rms_norm_eps", c.rms_norm_eps, 1e-12, 0.1));
  if (c.num_heads % c.num_kv_heads != 0) {
    return InvalidArgument("{}: num_attention_heads {} is not a multiple of num_key_value_heads {}",
                           what, c.num_heads, c.num_kv_heads);
  }
  if (c.head_dim % 2 != 0) {
    return InvalidArgument("{}: head_dim {} is odd; rotary embeddings need an even one", what,
                           c.head_dim);
  }
  TG_RETURN_IF_ERROR(CheckRope(c.rope, what));
  const int64_t last = c.vocab_size - 1;
  if (c.bos_id) TG_RETURN_IF_ERROR(InRange(what, "bos_token_id", int64_t{*c.bos_id}, 0, last));
  if (c.pad_id) TG_RETURN_IF_ERROR(InRange(what, "pad_token_id", int64_t{*c.pad_id}, 0, last));
  for (const int32_t id : c.eos_ids) {
    TG_RETURN_IF_ERROR(InRange(what, "eos_token_id", int64_t{id}, 0, last));
  }
  return OkStatus();
}

Result<ModelConfig> ParseHfConfig(std::string_view json_text, std::string_view what) {
  TG_ASSIGN_OR_RETURN(const json root,
                      ParseStrictJson(json_text, {.max_bytes = kMaxConfigBytes}, what));
  if (!root.is_object()) return InvalidArgument("{} is not a JSON object", what);
  const Fields fields(root, std::string(what));
  ModelConfig config;
  TG_RETURN_IF_ERROR(ParseFamily(fields, &config));
  TG_RETURN_IF_ERROR(RefuseFeatures(fields));
  TG_RETURN_IF_ERROR(ParseSizes(fields, &config));
  TG_RETURN_IF_ERROR(ParseRope(fields, &config.rope));
  if (config.rope.type == RopeType::kYarn && config.rope.original_max_positions == 0) {
    config.rope.original_max_positions = config.max_positions;
  }
  TG_RETURN_IF_ERROR(ParseTokenIds(fields, &config));
  TG_ASSIGN_OR_RETURN(const std::string old_dtype, fields.String("torch_dtype", "float32"));
  TG_ASSIGN_OR_RETURN(config.dtype, fields.String("dtype", old_dtype));
  TG_RETURN_IF_ERROR(CheckConfig(config, what));
  return config;
}

Result<ModelConfig> LoadHfConfig(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  return ParseHfConfig(text, path.native());
}

namespace {

const char* ArchitectureOf(const std::string& model_type) {
  if (model_type == "mistral") return "MistralForCausalLM";
  if (model_type == "qwen2") return "Qwen2ForCausalLM";
  if (model_type == "qwen3") return "Qwen3ForCausalLM";
  return "LlamaForCausalLM";
}

}  // namespace

std::string ToHfJson(const ModelConfig& c) {
  json rope_scaling = nullptr;
  if (c.rope.type == RopeType::kLinear) {
    rope_scaling = {{"rope_type", "linear"}, {"factor", c.rope.factor}};
  } else if (c.rope.type == RopeType::kLlama3) {
    rope_scaling = {{"rope_type", "llama3"},
                    {"factor", c.rope.factor},
                    {"low_freq_factor", c.rope.low_freq_factor},
                    {"high_freq_factor", c.rope.high_freq_factor},
                    {"original_max_position_embeddings", c.rope.original_max_positions}};
  } else if (c.rope.type == RopeType::kYarn) {
    rope_scaling = {{"rope_type", "yarn"},
                    {"factor", c.rope.factor},
                    {"beta_fast", c.rope.beta_fast},
                    {"beta_slow", c.rope.beta_slow},
                    {"truncate", c.rope.truncate},
                    {"attention_factor", c.rope.attention_factor},
                    {"original_max_position_embeddings", c.rope.original_max_positions}};
  }
  json eos = nullptr;
  if (c.eos_ids.size() == 1) eos = c.eos_ids[0];
  if (c.eos_ids.size() > 1) eos = c.eos_ids;
  json out = {
      {"architectures", {ArchitectureOf(c.model_type)}},
      {"attention_bias", c.qkv_bias},
      {"attention_dropout", 0.0},
      {"bos_token_id", c.bos_id ? json(*c.bos_id) : json(nullptr)},
      {"eos_token_id", eos},
      {"head_dim", c.head_dim},
      {"hidden_act", "silu"},
      {"hidden_size", c.hidden_size},
      {"intermediate_size", c.intermediate_size},
      {"max_position_embeddings", c.max_positions},
      {"model_type", c.model_type},
      {"num_attention_heads", c.num_heads},
      {"num_hidden_layers", c.num_layers},
      {"num_key_value_heads", c.num_kv_heads},
      {"pad_token_id", c.pad_id ? json(*c.pad_id) : json(nullptr)},
      {"rms_norm_eps", c.rms_norm_eps},
      {"rope_scaling", rope_scaling},
      {"rope_theta", c.rope.theta},
      {"tie_word_embeddings", c.tied},
      {"torch_dtype", c.dtype},
      {"vocab_size", c.vocab_size},
  };
  if (c.model_type == "mistral") out["sliding_window"] = nullptr;
  if (c.model_type == "llama") out["mlp_bias"] = c.mlp_bias;
  if (c.model_type.starts_with("qwen")) out["use_sliding_window"] = false;
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace tidegate::model
