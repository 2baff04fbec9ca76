#include "model/adapter.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/rng.h"

namespace tidegate::model {
namespace {

struct ModuleNames {
  std::string_view name, block;
};
constexpr std::array<ModuleNames, kModulesPerLayer> kNames = {{{"q_proj", "self_attn"},
                                                               {"k_proj", "self_attn"},
                                                               {"v_proj", "self_attn"},
                                                               {"o_proj", "self_attn"},
                                                               {"gate_proj", "mlp"},
                                                               {"up_proj", "mlp"},
                                                               {"down_proj", "mlp"}}};

// A of one module: uniform in (-1/sqrt(in), 1/sqrt(in)), a pure function of (seed, layer, module).
void InitA(const AdapterTensor& tensor, uint64_t seed, std::span<float> out) {
  const uint32_t stream =
      static_cast<uint32_t>(tensor.layer * kModulesPerLayer + static_cast<int>(tensor.module));
  const float bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(tensor.cols)));
  for (size_t i = 0; i < out.size(); i += 4) {
    const auto words = RandomWords(seed, RngPurpose::kInit, stream, i / 4);
    for (size_t j = i; j < std::min(i + 4, out.size()); ++j) {
      out[j] = (2.0f * UniformFloat(words[j - i]) - 1.0f) * bound;
    }
  }
}

}  // namespace

bool LoraConfig::Targets(Module module) const {
  return std::find(targets.begin(), targets.end(), module) != targets.end();
}

bool LoraConfig::Adapts(int64_t layer) const {
  return layers.empty() || std::binary_search(layers.begin(), layers.end(), layer);
}

std::string_view ModuleName(Module module) { return kNames[static_cast<size_t>(module)].name; }

std::string ModulePath(Module module) {
  const ModuleNames& names = kNames[static_cast<size_t>(module)];
  return fmt::format("{}.{}", names.block, names.name);
}

Status CheckLora(const LoraConfig& lora) {
  if (lora.r < 1 || lora.r > kMaxLoraRank) {
    return InvalidArgument("LoRA rank r is {}: choose 1 to {} (8 to 64 is usual)", lora.r,
                           kMaxLoraRank);
  }
  if (!std::isfinite(lora.alpha) || lora.alpha <= 0) {
    return InvalidArgument("LoRA alpha is {}: choose a number above 0 (r to 2r is usual)",
                           lora.alpha);
  }
  if (!(lora.dropout >= 0 && lora.dropout < 1)) {
    return InvalidArgument("LoRA dropout is {}: choose at least 0 and less than 1", lora.dropout);
  }
  for (size_t i = 0; i < lora.targets.size(); ++i) {
    if (static_cast<int>(lora.targets[i]) >= kModulesPerLayer) {
      return InvalidArgument("LoRA target number {} is not a module of a layer",
                             static_cast<int>(lora.targets[i]));
    }
    if (i > 0 && lora.targets[i] <= lora.targets[i - 1]) {
      return InvalidArgument("LoRA targets must be in layer order, each once: {} is out of place",
                             ModuleName(lora.targets[i]));
    }
  }
  for (size_t i = 0; i < lora.layers.size(); ++i) {
    if (lora.layers[i] < (i > 0 ? lora.layers[i - 1] + 1 : 0)) {
      return InvalidArgument("LoRA layers must be numbers from 0, each once: {} is out of place",
                             lora.layers[i]);
    }
  }
  return CheckPatterns(lora);
}

Status CheckLoraFits(const LoraConfig& lora, const ModelConfig& base) {
  TG_RETURN_IF_ERROR(CheckLora(lora));
  if (!lora.layers.empty() && lora.layers.back() >= base.num_layers) {
    return InvalidArgument("layers_to_transform names layer {}: the base has layers 0 to {}",
                           lora.layers.back(), base.num_layers - 1);
  }
  if (lora.rank_pattern.empty() && lora.alpha_pattern.empty()) return OkStatus();
  for (int64_t layer = 0; layer < base.num_layers; ++layer) {
    for (const Module module : lora.targets) {
      if (const auto found = lora.At(layer, module); !found) return found.error();
    }
  }
  return OkStatus();
}

ModuleShape ShapeOf(const ModelConfig& base, Module module) {
  const int64_t q = base.q_size();
  const int64_t kv = base.kv_size();
  switch (module) {
    case Module::kQ:
      return {base.hidden_size, q};
    case Module::kK:
    case Module::kV:
      return {base.hidden_size, kv};
    case Module::kO:
      return {q, base.hidden_size};
    case Module::kGate:
    case Module::kUp:
      return {base.hidden_size, base.intermediate_size};
    case Module::kDown:
      break;
  }
  return {base.intermediate_size, base.hidden_size};
}

bool HasBias(const ModelConfig& base, Module module) {
  if (module < Module::kO) return base.qkv_bias;
  return module == Module::kO ? base.o_bias : base.mlp_bias;
}

Result<std::vector<Module>> ParseTargets(std::string_view text) {
  std::vector<Module> targets;
  if (text == "all-linear") {
    for (int i = 0; i < kModulesPerLayer; ++i) targets.push_back(static_cast<Module>(i));
    return targets;
  }
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string_view name = text.substr(at, end - at);
    const auto* found = std::find_if(kNames.begin(), kNames.end(),
                                     [&](const ModuleNames& n) { return n.name == name; });
    if (found == kNames.end()) {
      return InvalidArgument(
          "'{}' is not a LoRA target: use all-linear, or a comma-separated list of q_proj, k_proj, "
          "v_proj, o_proj, gate_proj, up_proj, down_proj",
          name);
    }
    const Module module = static_cast<Module>(found - kNames.begin());
    if (std::find(targets.begin(), targets.end(), module) != targets.end()) {
      return InvalidArgument("LoRA target {} is listed twice: list it once", name);
    }
    targets.push_back(module);
    at = end + 1;
  }
  std::sort(targets.begin(), targets.end());
  return targets;
}

Result<std::vector<int64_t>> ParseLayers(std::string_view text) {
  std::vector<int64_t> layers;
  for (size_t at = 0; !text.empty() && at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string_view word = text.substr(at, end - at);
    int64_t layer = -1;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), layer);
    if (error != std::errc() || stop != word.data() + word.size() || layer < 0) {
      return InvalidArgument("'{}' is no layer: give numbers from 0 with commas, such as 0,1,5",
                             word);
    }
    layers.push_back(layer);
    at = end + 1;
  }
  std::sort(layers.begin(), layers.end());
  const auto twice = std::adjacent_find(layers.begin(), layers.end());
  if (twice != layers.end()) {
    return InvalidArgument("layer {} is listed twice: list it once", *twice);
  }
  return layers;
}

std::vector<AdapterTensor> AdapterLayout(const ModelConfig& base, const LoraConfig& lora) {
  std::vector<AdapterTensor> tensors;
  int64_t offset = 0;
  for (int layer = 0; layer < static_cast<int>(base.num_layers); ++layer) {
    if (!lora.Adapts(layer)) continue;
    for (const Module module : lora.targets) {
      const ModuleShape shape = ShapeOf(base, module);
      const auto found = lora.At(layer, module);
      const LoraConfig::OfModule its = found ? *found : LoraConfig::OfModule{lora.r, lora.scale()};
      for (const bool is_b : {false, true}) {
        AdapterTensor tensor;
        tensor.name = fmt::format("base_model.model.model.layers.{}.{}.lora_{}.weight", layer,
                                  ModulePath(module), is_b ? 'B' : 'A');
        tensor.layer = layer;
        tensor.module = module;
        tensor.is_b = is_b;
        tensor.rows = is_b ? shape.out : its.r;
        tensor.cols = is_b ? its.r : shape.in;
        tensor.scale = its.scale;
        tensor.offset = offset;
        offset += tensor.count();
        tensors.push_back(std::move(tensor));
      }
    }
  }
  return tensors;
}

AdaptedModules::AdaptedModules(const ModelConfig& base, std::span<const AdapterTensor> layout)
    : places_(static_cast<size_t>(base.num_layers * kModulesPerLayer)),
      lowest_(layout.empty() ? static_cast<int>(base.num_layers) : layout.front().layer) {
  for (size_t i = 0; i < layout.size(); ++i) {
    const AdapterTensor& a = layout[i];
    if (a.is_b) continue;
    const size_t module = static_cast<size_t>(a.module);
    places_[static_cast<size_t>(a.layer) * kModulesPerLayer + module] = {a.rows, i};
    widest_[module] = std::max(widest_[module], a.rows);
  }
}

Adapter Adapter::CreateZero(const ModelConfig& base, const LoraConfig& lora) {
  Adapter adapter;
  adapter.lora_ = lora;
  adapter.tensors_ = AdapterLayout(base, lora);
  int64_t count = 0;
  for (const AdapterTensor& tensor : adapter.tensors_) count += tensor.count();
  adapter.parameters_.assign(static_cast<size_t>(count), 0.0f);
  return adapter;
}

Adapter Adapter::Create(const ModelConfig& base, const LoraConfig& lora, uint64_t seed) {
  Adapter adapter = CreateZero(base, lora);
  for (const AdapterTensor& tensor : adapter.tensors_) {
    if (tensor.is_b) continue;
    InitA(tensor, seed,
          adapter.parameters().subspan(static_cast<size_t>(tensor.offset),
                                       static_cast<size_t>(tensor.count())));
  }
  return adapter;
}

}  // namespace tidegate::model
