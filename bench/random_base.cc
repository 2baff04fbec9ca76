// Writes a Hugging Face folder of Llama's form with random bf16 weights, for measuring what a model
// of that size takes of time and memory: nobody needs the weights of a real one for that.
//
//   random_base --out FOLDER [--hidden 4096] [--inner 11008] [--layers 32] [--heads 32]
//               [--kv_heads 32] [--vocab 32000]          (the defaults are Llama 2 7B's)
#include <charconv>
#include <filesystem>
#include <map>

#include "base/file.h"
#include "base/rng.h"
#include "nlohmann/json.hpp"
#include "tensor/safetensors.h"

namespace tidegate {
namespace {

using tensor::TensorSpec;

struct Options {
  std::filesystem::path out;
  int64_t hidden = 4096, inner = 11008, layers = 32, heads = 32, kv_heads = 32, vocab = 32000;
};

Result<Options> Parse(int count, char** words) {
  Options options;
  const std::map<std::string_view, int64_t*> numbers = {
      {"--hidden", &options.hidden},     {"--inner", &options.inner},
      {"--layers", &options.layers},     {"--heads", &options.heads},
      {"--kv_heads", &options.kv_heads}, {"--vocab", &options.vocab}};
  for (int i = 1; i < count; i += 2) {
    const std::string_view name = words[i];
    if (i + 1 == count) return InvalidArgument("{}: value missing", name);
    const std::string_view value = words[i + 1];
    const auto number = numbers.find(name);
    if (name == "--out") {
      options.out = value;
    } else if (number == numbers.end()) {
      return InvalidArgument("{}: no such option, see the head of this file", name);
    } else if (std::from_chars(value.data(), value.data() + value.size(), *number->second).ec !=
                   std::errc() ||
               *number->second < 1) {
      return InvalidArgument("{} {}: choose a whole number from 1", name, value);
    }
  }
  if (options.out.empty()) return InvalidArgument("--out: give a folder to make");
  return options;
}

// Uniform around zero with the deviation of trained weights; the same million for ever.
Bytes RandomPool() {
  std::vector<float> values(1 << 20);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = (UniformFloat(RandomWords(1, RngPurpose::kTest, 0, i)[0]) - 0.5f) * 0.07f;
  }
  Bytes bytes(values.size() * 2);
  tensor::FromFloats(tensor::DType::kBF16, values, bytes.data());
  return bytes;
}

Status WriteShard(const std::filesystem::path& path, std::vector<TensorSpec> specs,
                  const Bytes& pool) {
  TG_ASSIGN_OR_RETURN(
      auto writer, tensor::SafetensorsWriter::Create(path, std::move(specs), {{"format", "pt"}}));
  for (const TensorSpec& spec : std::vector<TensorSpec>(writer.order())) {
    int64_t left = 2;
    for (const int64_t extent : spec.shape) left *= extent;
    while (left > 0) {
      const size_t piece = std::min(static_cast<size_t>(left), pool.size());
      TG_RETURN_IF_ERROR(writer.Append(spec.name, ByteSpan(pool.data(), piece)));
      left -= static_cast<int64_t>(piece);
    }
  }
  return writer.Finish();
}

TensorSpec Spec(std::string name, tensor::Shape shape) {
  return {std::move(name) + ".weight", tensor::DType::kBF16, std::move(shape)};
}

std::vector<TensorSpec> LayerSpecs(const Options& o, int64_t layer) {
  const std::string at = fmt::format("model.layers.{}.", layer);
  const int64_t head_dim = o.hidden / o.heads;
  return {Spec(at + "input_layernorm", {o.hidden}),
          Spec(at + "post_attention_layernorm", {o.hidden}),
          Spec(at + "self_attn.q_proj", {o.hidden, o.hidden}),
          Spec(at + "self_attn.k_proj", {o.kv_heads * head_dim, o.hidden}),
          Spec(at + "self_attn.v_proj", {o.kv_heads * head_dim, o.hidden}),
          Spec(at + "self_attn.o_proj", {o.hidden, o.hidden}),
          Spec(at + "mlp.gate_proj", {o.inner, o.hidden}),
          Spec(at + "mlp.up_proj", {o.inner, o.hidden}),
          Spec(at + "mlp.down_proj", {o.hidden, o.inner})};
}

nlohmann::ordered_json ConfigOf(const Options& o) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_act", "silu"},
          {"hidden_size", o.hidden},
          {"intermediate_size", o.inner},
          {"num_hidden_layers", o.layers},
          {"num_attention_heads", o.heads},
          {"num_key_value_heads", o.kv_heads},
          {"vocab_size", o.vocab},
          {"max_position_embeddings", 4096},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", false},
          {"torch_dtype", "bfloat16"}};
}

Status Run(const Options& o) {
  std::filesystem::create_directories(o.out);
  const Bytes pool = RandomPool();
  nlohmann::ordered_json map;
  for (int64_t i = 0; i <= o.layers; ++i) {
    const std::vector<TensorSpec> specs =
        i < o.layers ? LayerSpecs(o, i)
                     : std::vector<TensorSpec>{Spec("model.embed_tokens", {o.vocab, o.hidden}),
                                               Spec("model.norm", {o.hidden}),
                                               Spec("lm_head", {o.vocab, o.hidden})};
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, o.layers + 1);
    for (const TensorSpec& spec : specs) map[spec.name] = name;
    TG_RETURN_IF_ERROR(WriteShard(o.out / name, specs, pool));
  }
  const nlohmann::ordered_json index = {{"metadata", nlohmann::ordered_json::object()},
                                        {"weight_map", map}};
  TG_RETURN_IF_ERROR(
      WriteFileDurably(o.out / "model.safetensors.index.json", AsBytes(index.dump(2))));
  return WriteFileDurably(o.out / "config.json", AsBytes(ConfigOf(o).dump(2)));
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  const auto options = tidegate::Parse(argc, argv);
  const tidegate::Status status = options ? tidegate::Run(*options) : options.error();
  if (!status.ok()) fmt::print(stderr, "random_base: {}\n", status.ToString());
  return status.ok() ? 0 : 1;
}
