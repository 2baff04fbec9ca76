#include "model/flat_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "model/weight_layout.h"

namespace tidegate::model {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kFinalNorm = "model.norm.weight";
constexpr std::string_view kHead = "lm_head.weight";
constexpr std::string_view kLayers = "model.layers.";

// Embedding 0, layers 1, final norm 2, head 3.
int OrderOf(const std::string& name) {
  if (name == kEmbedding) return 0;
  if (name.starts_with(kLayers)) return 1;
  return name == kFinalNorm ? 2 : 3;
}

using Offsets = std::map<std::string, int64_t, std::less<>>;

int64_t At(const Offsets& offsets, std::string_view name) {
  const auto found = offsets.find(name);
  return found == offsets.end() ? -1 : found->second;
}

LayerOffsets LayerAt(const Offsets& offsets, size_t layer) {
  const std::string at = fmt::format("{}{}.", kLayers, layer);
  LayerOffsets out;
  for (size_t i = 0; i < kModulesPerLayer; ++i) {
    const std::string module = at + ModulePath(static_cast<Module>(i));
    out.linear[i] = At(offsets, module + ".weight");
    out.bias[i] = At(offsets, module + ".bias");
  }
  out.input_norm = At(offsets, at + "input_layernorm.weight");
  out.mlp_norm = At(offsets, at + "post_attention_layernorm.weight");
  out.q_norm = At(offsets, at + "self_attn.q_norm.weight");
  out.k_norm = At(offsets, at + "self_attn.k_norm.weight");
  const auto first = offsets.lower_bound(at);
  out.begin = first->second;
  for (auto it = first; it != offsets.end() && it->first.starts_with(at); ++it) {
    out.begin = std::min(out.begin, it->second);
  }
  return out;
}

}  // namespace

FlatLayout LayOutFlat(const ModelConfig& config, int64_t multiple) {
  std::vector<WeightSpec> specs = WeightsOf(config);
  std::stable_sort(specs.begin(), specs.end(), [](const WeightSpec& a, const WeightSpec& b) {
    return OrderOf(a.name) < OrderOf(b.name);
  });
  FlatLayout layout;
  Offsets offsets;
  for (WeightSpec& spec : specs) {
    int64_t count = 1;
    for (const int64_t n : spec.shape) count *= n;
    offsets[spec.name] = layout.count;
    layout.tensors.push_back({std::move(spec.name), std::move(spec.shape), layout.count, count});
    layout.count = RoundUp(layout.count + count, kFlatAlignment);
  }
  layout.count = RoundUp(layout.count, multiple);
  layout.embedding = At(offsets, kEmbedding);
  layout.final_norm = At(offsets, kFinalNorm);
  layout.head = config.tied ? layout.embedding : At(offsets, kHead);
  for (size_t i = 0; i < static_cast<size_t>(config.num_layers); ++i) {
    layout.layers.push_back(LayerAt(offsets, i));
  }
  return layout;
}

}  // namespace tidegate::model
