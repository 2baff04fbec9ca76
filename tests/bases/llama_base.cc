#include "llama_base.h"

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tensor/safetensors.h"

namespace tidegate::bases {
namespace {

using tensor::TensorSpec;

constexpr int64_t kHeads = 8;

TensorSpec Spec(std::string name, tensor::Shape shape) {
  return {std::move(name) + ".weight", tensor::DType::kBF16, std::move(shape)};
}

std::vector<TensorSpec> SpecsOf(const LlamaBase& b) {
  std::vector<TensorSpec> specs = {Spec("model.embed_tokens", {b.vocab, b.hidden}),
                                   Spec("model.norm", {b.hidden}),
                                   Spec("lm_head", {b.vocab, b.hidden})};
  for (int64_t layer = 0; layer < b.layers; ++layer) {
    const std::string at = fmt::format("model.layers.{}.", layer);
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      specs.push_back(Spec(at + norm, {b.hidden}));
    }
    for (const char* side : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      specs.push_back(Spec(at + "self_attn." + side, {b.hidden, b.hidden}));
    }
    specs.push_back(Spec(at + "mlp.gate_proj", {b.inner, b.hidden}));
    specs.push_back(Spec(at + "mlp.up_proj", {b.inner, b.hidden}));
    specs.push_back(Spec(at + "mlp.down_proj", {b.hidden, b.inner}));
  }
  return specs;
}

// bf16 of either sign between 2^-7 and 2^-4: four a step.
class Weights {
 public:
  Weights(const LlamaBase& base)
      : state_(base.seed * 0x9e3779b97f4a7c15ull + 1), moved_(base.moved) {}
  void Fill(Bytes* out) {
    for (size_t i = 0; i + 8 <= out->size(); i += 8) {
      uint64_t x = Next(&state_);
      uint16_t four[4];
      for (uint16_t& one : four) {
        const auto bits = static_cast<uint16_t>(x);
        one = static_cast<uint16_t>((bits & 0x807f) | ((0x78 + (bits >> 8) % 3) << 7));
        x >>= 16;
        if (moved_ > 0 && Next(&moves_) % 1024 < moved_) one ^= 1;
      }
      std::memcpy(out->data() + i, four, sizeof(four));
    }
  }

 private:
  static uint64_t Next(uint64_t* state) {
    uint64_t& x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x * 0x2545f4914f6cdd1dull;
  }
  uint64_t state_, moves_ = 88172645463325252ull;
  uint32_t moved_;
};

}  // namespace

Status WriteLlamaBase(const std::filesystem::path& dir, const LlamaBase& b) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  TG_ASSIGN_OR_RETURN(auto writer, tensor::SafetensorsWriter::Create(
                                       dir / "model.safetensors", SpecsOf(b), {{"format", "pt"}}));
  Weights weights(b);
  Bytes piece(1u << 20);
  for (const TensorSpec& spec : std::vector<TensorSpec>(writer.order())) {
    int64_t left = 2;
    for (const int64_t extent : spec.shape) left *= extent;
    for (; left > 0; left -= static_cast<int64_t>(piece.size())) {
      weights.Fill(&piece);
      const auto take = std::min<size_t>(piece.size(), static_cast<size_t>(left));
      TG_RETURN_IF_ERROR(writer.Append(spec.name, ByteSpan(piece).first(take)));
    }
  }
  TG_RETURN_IF_ERROR(writer.Finish());
  const nlohmann::ordered_json config = {{"architectures", {"LlamaForCausalLM"}},
                                         {"model_type", "llama"},
                                         {"hidden_act", "silu"},
                                         {"hidden_size", b.hidden},
                                         {"intermediate_size", b.inner},
                                         {"num_hidden_layers", b.layers},
                                         {"num_attention_heads", kHeads},
                                         {"num_key_value_heads", kHeads},
                                         {"vocab_size", b.vocab},
                                         {"max_position_embeddings", 4096},
                                         {"rms_norm_eps", 1e-5},
                                         {"rope_theta", 10000.0},
                                         {"tie_word_embeddings", false},
                                         {"torch_dtype", "bfloat16"}};
  return WriteFileDurably(dir / "config.json", AsBytes(config.dump(2)));
}

}  // namespace tidegate::bases
