#include "model/adapter_gguf.h"

#include "tensor/gguf_write.h"

namespace tidegate::model {
namespace {

// "blk.3.attn_q.weight.lora_a"
std::string GgufName(const AdapterTensor& tensor) {
  static constexpr const char* kNames[kModulesPerLayer] = {
      "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
  return fmt::format("blk.{}.{}.weight.lora_{}", tensor.layer,
                     kNames[static_cast<size_t>(tensor.module)], tensor.is_b ? "b" : "a");
}

// Mistral is llama to llama.cpp.
std::string ArchitectureOf(const ModelConfig& base) {
  return base.model_type == "mistral" ? "llama" : base.model_type;
}

// The heads whose rows are interleaved, 0 for a tensor that stays as it is.
int64_t InterleavedHeads(const ModelConfig& base, const AdapterTensor& tensor) {
  if (!tensor.is_b || ArchitectureOf(base) != "llama") return 0;
  if (tensor.module == Module::kQ) return base.num_heads;
  return tensor.module == Module::kK ? base.num_kv_heads : 0;
}

// Within a head, the rows of a rotated pair lie beside each other.
std::vector<float> Interleaved(std::span<const float> values, const AdapterTensor& tensor,
                               int64_t heads) {
  std::vector<float> out(values.size());
  const int64_t half = tensor.rows / heads / 2;
  for (int64_t row = 0; row < tensor.rows; ++row) {
    const int64_t head = row / (2 * half), within = row % (2 * half);
    const int64_t from = head * 2 * half + within % 2 * half + within / 2;
    for (int64_t i = 0; i < tensor.cols; ++i) {
      out[static_cast<size_t>(row * tensor.cols + i)] =
          values[static_cast<size_t>(from * tensor.cols + i)];
    }
  }
  return out;
}

}  // namespace

Bytes EncodeGgufAdapter(const ModelConfig& base, const Adapter& adapter) {
  tensor::GgufBuilder builder;
  builder.SetText("general.architecture", ArchitectureOf(base));
  builder.SetText("general.type", "adapter");
  builder.SetText("adapter.type", "lora");
  const LoraConfig& lora = adapter.lora();
  const double alpha = lora.scale() * static_cast<double>(lora.r);
  builder.SetFloat("adapter.lora.alpha", static_cast<float>(alpha));
  for (const AdapterTensor& tensor : adapter.tensors()) {
    const auto values = adapter.parameters().subspan(static_cast<size_t>(tensor.offset),
                                                     static_cast<size_t>(tensor.count()));
    const int64_t heads = InterleavedHeads(base, tensor);
    std::vector<float> out = heads > 0 ? Interleaved(values, tensor, heads)
                                       : std::vector<float>(values.begin(), values.end());
    if (tensor.is_b) {
      const double quotient = tensor.scale * static_cast<double>(tensor.cols) / alpha;
      for (float& x : out) x = static_cast<float>(static_cast<double>(x) * quotient);
    }
    builder.AddTensor(GgufName(tensor), {tensor.rows, tensor.cols}, std::move(out));
  }
  return builder.Build();
}

}  // namespace tidegate::model
