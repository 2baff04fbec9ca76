// PEFT's adapter folder: adapter_config.json and adapter_model.safetensors.
#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "model/adapter.h"
#include "tensor/safetensors.h"

namespace tidegate::model {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::string_view kConfigFile = "adapter_config.json";
constexpr std::string_view kWeightsFile = "adapter_model.safetensors";
// The version whose keys BuildConfig writes.
constexpr std::string_view kPeftVersion = "0.21.2";

// Features of PEFT that change what the tensors mean or which there are. Off is null, false, or an
// empty list or object; anything else is refused by name.
constexpr std::array<std::string_view, 21> kMustBeOff = {"alora_invocation_tokens",
                                                         "arrow_config",
                                                         "corda_config",
                                                         "eva_config",
                                                         "exclude_modules",
                                                         "fan_in_fan_out",
                                                         "kasa_config",
                                                         "layer_replication",
                                                         "layers_pattern",
                                                         "loftq_config",
                                                         "lora_bias",
                                                         "lora_ga_config",
                                                         "megatron_config",
                                                         "modules_to_save",
                                                         "monteclora_config",
                                                         "target_parameters",
                                                         "trainable_token_indices",
                                                         "use_bdlora",
                                                         "use_dora",
                                                         "use_qalora",
                                                         "velora_config"};

// Ways to initialise that leave the base as it is. (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA change it.)
constexpr std::array<std::string_view, 3> kPlainInits = {"gaussian", "eva", "orthogonal"};

json NumberOf(double value) {
  if (value == std::floor(value) && std::fabs(value) < 0x1p53) return static_cast<int64_t>(value);
  return value;
}

// Sorted, but for the patterns: of those the first that matches counts.
ordered_json BuildConfig(const LoraConfig& lora, const std::string& base_model_name) {
  json config = json::object();
  for (const std::string_view key : kMustBeOff) config[std::string(key)] = nullptr;
  config["loftq_config"] = json::object();
  for (const char* key :
       {"fan_in_fan_out", "lora_bias", "use_dora", "use_qalora", "ensure_weight_tying"}) {
    config[key] = false;
  }
  std::vector<std::string> targets;
  for (const Module module : lora.targets) targets.emplace_back(ModuleName(module));
  std::sort(targets.begin(), targets.end());
  config["auto_mapping"] = nullptr;
  config["base_model_name_or_path"] =
      base_model_name.empty() ? json(nullptr) : json(base_model_name);
  config["bias"] = "none";
  config["inference_mode"] = true;
  config["init_lora_weights"] = true;
  config["layers_to_transform"] = lora.layers.empty() ? json(nullptr) : json(lora.layers);
  config["lora_alpha"] = NumberOf(lora.alpha);
  config["lora_dropout"] = lora.dropout;
  config["megatron_core"] = "megatron.core";
  config["peft_type"] = "LORA";
  config["peft_version"] = std::string(kPeftVersion);
  config["qalora_group_size"] = 16;
  config["r"] = lora.r;
  config["revision"] = nullptr;
  config["target_modules"] = targets;
  config["task_type"] = "CAUSAL_LM";
  config["use_rslora"] = lora.rslora;
  config["alpha_pattern"] = config["rank_pattern"] = json::object();
  ordered_json out = ordered_json::object();
  for (const auto& [key, value] : config.items()) out[key] = value;
  out["alpha_pattern"] = ordered_json::parse(AlphaPatternJson(lora));
  out["rank_pattern"] = ordered_json::parse(RankPatternJson(lora));
  return out;
}

bool IsOff(const json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         ((value.is_array() || value.is_object()) && value.empty());
}

Status CheckFeatures(const json& config, std::string_view what) {
  if (!config.is_object()) return InvalidArgument("{}: not a JSON object", what);
  const auto type = config.find("peft_type");
  if (type == config.end() || *type != "LORA") {
    return Unsupported("{}: peft_type is {}, only \"LORA\" adapters can be read", what,
                       type == config.end() ? "missing" : type->dump());
  }
  for (const std::string_view key : kMustBeOff) {
    const auto it = config.find(std::string(key));
    if (it != config.end() && !IsOff(*it)) {
      return Unsupported(
          "{}: {} is switched on ({}), which is not supported: train the adapter "
          "without it",
          what, key, it->dump().substr(0, 80));
    }
  }
  const auto bias = config.find("bias");
  if (bias != config.end() && *bias != "none") {
    return Unsupported("{}: bias is {}, only \"none\" is supported", what, bias->dump());
  }
  const auto init = config.find("init_lora_weights");
  if (init != config.end() && !init->is_boolean() && !init->is_null() &&
      std::find(kPlainInits.begin(), kPlainInits.end(), *init) == kPlainInits.end()) {
    return Unsupported(
        "{}: init_lora_weights is {}, which changes the base weights: convert the adapter with "
        "PEFT's path_initial_model_for_weight_conversion first",
        what, init->dump());
  }
  return OkStatus();
}

Result<double> Number(const json& config, const char* key, std::string_view what) {
  const auto it = config.find(key);
  if (it == config.end() || !it->is_number()) {
    return InvalidArgument("{}: {} is {}, it must be a number", what, key,
                           it == config.end() ? "missing" : it->dump());
  }
  return it->get<double>();
}

// One entry of target_modules: a module of every layer ("q_proj", "self_attn.q_proj"), or of one
// ("model.layers.3.self_attn.q_proj", which is how PEFT writes out all-linear for some bases).
struct TargetEntry {
  Module module;
  std::optional<int64_t> layer;
};

std::optional<Module> ModuleOf(std::string_view text, bool bare_name) {
  for (int i = 0; i < kModulesPerLayer; ++i) {
    const Module module = static_cast<Module>(i);
    if (text == ModulePath(module) || (bare_name && text == ModuleName(module))) return module;
  }
  return std::nullopt;
}

std::optional<TargetEntry> ParseTarget(std::string_view text) {
  if (const auto module = ModuleOf(text, true)) return TargetEntry{*module, std::nullopt};
  for (const std::string_view prefix : {"model.", "layers."}) {
    if (text.starts_with(prefix)) {
      text.remove_prefix(prefix.size());
    } else if (prefix == "layers.") {
      return std::nullopt;
    }
  }
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  if (error != std::errc() || layer < 0 || !text.starts_with('.')) return std::nullopt;
  const auto module = ModuleOf(text.substr(1), false);
  if (!module) return std::nullopt;
  return TargetEntry{*module, layer};
}

Result<std::vector<Module>> ReadTargets(const json& config, int64_t num_layers,
                                        std::string_view what) {
  const auto it = config.find("target_modules");
  if (it != config.end() && *it == "all-linear") return ParseTargets("all-linear");
  if (it == config.end() || !it->is_array() || it->empty()) {
    return Unsupported(
        "{}: target_modules is {}, it must be \"all-linear\" or a list of module names", what,
        it == config.end() ? "missing" : it->dump().substr(0, 80));
  }
  std::set<Module> in_every_layer;
  std::map<Module, std::set<int64_t>> in_layers;
  for (const json& item : *it) {
    const auto entry = item.is_string() ? ParseTarget(item.get_ref<const std::string&>())
                                        : std::optional<TargetEntry>();
    if (!entry || (entry->layer && *entry->layer >= num_layers)) {
      return Unsupported(
          "{}: target module {} is not supported: the linear modules of a layer are (q_proj, "
          "k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj), the base has {} layers",
          what, item.dump().substr(0, 80), num_layers);
    }
    if (entry->layer) {
      in_layers[entry->module].insert(*entry->layer);
    } else {
      in_every_layer.insert(entry->module);
    }
  }
  for (const auto& [module, layers] : in_layers) {
    if (!in_every_layer.insert(module).second) continue;
    if (static_cast<int64_t>(layers.size()) == num_layers) continue;
    return Unsupported(
        "{}: target_modules has {} in {} of the {} layers: only adapters of all layers are "
        "supported",
        what, ModuleName(module), layers.size(), num_layers);
  }
  return std::vector<Module>(in_every_layer.begin(), in_every_layer.end());
}

// A number or a list of them; null and an empty list are all layers.
Result<std::vector<int64_t>> ReadLayers(const json& config, int64_t num_layers,
                                        std::string_view what) {
  std::vector<int64_t> layers;
  const auto it = config.find("layers_to_transform");
  if (it == config.end() || it->is_null()) return layers;
  for (const json& item : it->is_array() ? *it : json::array({*it})) {
    if (!item.is_number_integer() || item < 0 || item >= num_layers) {
      return InvalidArgument(
          "{}: layers_to_transform has {}, it must be null or numbers of the base's layers, 0 to "
          "{}",
          what, item.dump().substr(0, 80), num_layers - 1);
    }
    layers.push_back(item.get<int64_t>());
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return layers;
}

Status ReadPatterns(std::string_view text, std::string_view what, LoraConfig* lora) {
  TG_ASSIGN_OR_RETURN(const ordered_json config, ParseStrictOrderedJson(text, JsonLimits{}, what));
  if (const auto it = config.find("rank_pattern"); it != config.end()) {
    TG_ASSIGN_OR_RETURN(lora->rank_pattern,
                        ParseRankPattern(it->dump(), fmt::format("{}: rank_pattern", what)));
  }
  if (const auto it = config.find("alpha_pattern"); it != config.end()) {
    TG_ASSIGN_OR_RETURN(lora->alpha_pattern,
                        ParseAlphaPattern(it->dump(), fmt::format("{}: alpha_pattern", what)));
  }
  return OkStatus();
}

Result<LoraConfig> ReadConfig(const std::filesystem::path& path, const ModelConfig& base) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  TG_ASSIGN_OR_RETURN(const json config, ParseStrictJson(text, JsonLimits{}, path.string()));
  TG_RETURN_IF_ERROR(CheckFeatures(config, path.string()));
  LoraConfig lora;
  const auto r = config.find("r");
  if (r == config.end() || !r->is_number_integer()) {
    return InvalidArgument("{}: r is {}, it must be an integer", path.string(),
                           r == config.end() ? "missing" : r->dump());
  }
  lora.r = r->is_number_unsigned() && r->get<uint64_t>() > kMaxLoraRank
               ? std::numeric_limits<int64_t>::max()
               : r->get<int64_t>();
  TG_ASSIGN_OR_RETURN(lora.alpha, Number(config, "lora_alpha", path.string()));
  if (config.contains("lora_dropout")) {
    TG_ASSIGN_OR_RETURN(lora.dropout, Number(config, "lora_dropout", path.string()));
  }
  const auto rslora = config.find("use_rslora");
  lora.rslora = rslora != config.end() && !IsOff(*rslora);
  TG_ASSIGN_OR_RETURN(lora.targets, ReadTargets(config, base.num_layers, path.string()));
  TG_ASSIGN_OR_RETURN(lora.layers, ReadLayers(config, base.num_layers, path.string()));
  TG_RETURN_IF_ERROR(ReadPatterns(text, path.string(), &lora));
  if (Status status = CheckLoraFits(lora, base); !status.ok()) {
    return Unexpected(status.WithContext(path.string()));
  }
  return lora;
}

Status CheckTensor(const tensor::SafetensorsFile& file, const AdapterTensor& expected) {
  const tensor::TensorView* view = file.Find(expected.name);
  if (view == nullptr) {
    return InvalidArgument(
        "{}: tensor {} is missing: the adapter does not fit its adapter_config.json or this base",
        file.file_name(), expected.name);
  }
  if (view->shape != tensor::Shape{expected.rows, expected.cols}) {
    return InvalidArgument("{}: tensor {} has shape {}, expected [{}, {}] for this base and rank",
                           file.file_name(), expected.name, tensor::ShapeText(view->shape),
                           expected.rows, expected.cols);
  }
  return OkStatus();
}

Status ReadTensor(const tensor::SafetensorsFile& file, const AdapterTensor& expected,
                  std::span<float> out) {
  TG_RETURN_IF_ERROR(tensor::ReadFloats(*file.Find(expected.name), out));
  for (const float value : out) {
    if (!std::isfinite(value)) {
      return InvalidArgument("{}: tensor {} holds NaN or Inf: the adapter is damaged",
                             file.file_name(), expected.name);
    }
  }
  return OkStatus();
}

}  // namespace

Status SavePeft(const std::filesystem::path& dir, const Adapter& adapter,
                const std::string& base_model_name) {
  static_assert(std::endian::native == std::endian::little);
  TG_RETURN_IF_ERROR(CheckLora(adapter.lora()));
  std::string config;
  try {
    config = BuildConfig(adapter.lora(), base_model_name).dump(2) + "\n";
  } catch (const json::exception&) {  // dump refuses bytes that are not UTF-8
    return InvalidArgument("the base model's name is not valid UTF-8: rename its folder");
  }
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return ErrnoStatus("create", dir.string(), error.value());
  std::vector<tensor::TensorToWrite> tensors;
  for (const AdapterTensor& t : adapter.tensors()) {
    const std::span<const float> values =
        adapter.parameters().subspan(static_cast<size_t>(t.offset), static_cast<size_t>(t.count()));
    tensors.push_back({t.name,
                       tensor::DType::kF32,
                       {t.rows, t.cols},
                       {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()}});
  }
  TG_RETURN_IF_ERROR(
      tensor::WriteSafetensors(dir / kWeightsFile, std::move(tensors), {{"format", "pt"}}));
  return WriteFileDurably(dir / kConfigFile, AsBytes(config));
}

Result<Adapter> LoadPeft(const std::filesystem::path& dir, const ModelConfig& base) {
  TG_ASSIGN_OR_RETURN(const LoraConfig lora, ReadConfig(dir / kConfigFile, base));
  TG_ASSIGN_OR_RETURN(const tensor::SafetensorsFile file,
                      tensor::SafetensorsFile::Open(dir / kWeightsFile));
  // Before memory is asked for: rank and base multiply to sizes that the file need not have.
  for (const AdapterTensor& t : AdapterLayout(base, lora)) {
    TG_RETURN_IF_ERROR(CheckTensor(file, t));
  }
  Adapter adapter = Adapter::CreateZero(base, lora);
  std::set<std::string_view> expected;
  for (const AdapterTensor& t : adapter.tensors()) {
    expected.insert(t.name);
    TG_RETURN_IF_ERROR(ReadTensor(file, t,
                                  adapter.parameters().subspan(static_cast<size_t>(t.offset),
                                                               static_cast<size_t>(t.count()))));
  }
  for (const tensor::TensorView& view : file.tensors()) {
    if (!expected.contains(view.name)) {
      return InvalidArgument(
          "{}: tensor {} is unexpected: neither the targets of adapter_config.json nor this base "
          "have it",
          file.file_name(), view.name);
    }
  }
  return adapter;
}

}  // namespace tidegate::model
