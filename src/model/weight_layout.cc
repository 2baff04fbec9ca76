#include "model/weight_layout.h"

#include <algorithm>

#include "base/log.h"
#include "model/adapter.h"

namespace tidegate::model {
namespace {

constexpr std::string_view kEmbedding = "model.embed_tokens.weight", kHead = "lm_head.weight";

void AddLayer(const ModelConfig& c, int64_t index, std::vector<WeightSpec>* out) {
  const std::string at = fmt::format("model.layers.{}.", index);
  out->push_back({at + "input_layernorm.weight", {c.hidden_size}});
  out->push_back({at + "post_attention_layernorm.weight", {c.hidden_size}});
  for (int i = 0; i < kModulesPerLayer; ++i) {
    const Module module = static_cast<Module>(i);
    const ModuleShape shape = ShapeOf(c, module);
    out->push_back({at + ModulePath(module) + ".weight", {shape.out, shape.in}});
    if (HasBias(c, module)) out->push_back({at + ModulePath(module) + ".bias", {shape.out}});
  }
  if (!c.qk_norm) return;
  out->push_back({at + "self_attn.q_norm.weight", {c.head_dim}});
  out->push_back({at + "self_attn.k_norm.weight", {c.head_dim}});
}

Status CheckTensor(const WeightSpec& spec, const tensor::TensorView& view) {
  if (view.shape != spec.shape) {
    return InvalidArgument("tensor {} has shape {}, config.json says {}", spec.name,
                           tensor::ShapeText(view.shape), tensor::ShapeText(spec.shape));
  }
  if (view.dtype != tensor::DType::kF32 && view.dtype != tensor::DType::kF16 &&
      view.dtype != tensor::DType::kBF16) {
    return Unsupported("tensor {} is {}: weights must be F32, F16 or BF16, convert the model first",
                       spec.name, tensor::DTypeName(view.dtype));
  }
  return OkStatus();
}

bool SameBytes(const tensor::TensorView& a, const tensor::TensorView& b) {
  return a.dtype == b.dtype &&
         std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end());
}

}  // namespace

std::vector<WeightSpec> WeightsOf(const ModelConfig& c) {
  std::vector<WeightSpec> out = {{std::string(kEmbedding), {c.vocab_size, c.hidden_size}},
                                 {"model.norm.weight", {c.hidden_size}}};
  if (!c.tied) out.push_back({std::string(kHead), {c.vocab_size, c.hidden_size}});
  for (int64_t i = 0; i < c.num_layers; ++i) AddLayer(c, i, &out);
  return out;
}

Status CheckWeights(const ModelConfig& config, const tensor::SafetensorsFolder& folder) {
  std::vector<std::string> known;
  for (const WeightSpec& spec : WeightsOf(config)) {
    TG_ASSIGN_OR_RETURN(const tensor::TensorView* view, folder.Get(spec.name));
    TG_RETURN_IF_ERROR(CheckTensor(spec, *view));
    known.push_back(spec.name);
  }
  std::sort(known.begin(), known.end());
  for (const std::string& name : folder.names()) {
    if (std::binary_search(known.begin(), known.end(), name)) continue;
    if (name.ends_with(".rotary_emb.inv_freq")) continue;  // old files: config.json decides
    if (config.tied && name == kHead) {
      if (!SameBytes(*folder.Find(kHead), *folder.Find(kEmbedding))) {
        LogWarning("lm_head_ignored reason=tied_embeddings_but_a_different_head_is_stored");
      }
      continue;
    }
    return Unsupported(
        "tensor {} has no place in a {} model as config.json describes it: use a model of a "
        "supported architecture",
        name, config.model_type);
  }
  return OkStatus();
}

}  // namespace tidegate::model
