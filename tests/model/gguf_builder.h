// Makes GGUF files for tests: a small Llama whose weights are functions of their place.
#pragma once

#include <bit>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "tensor/safetensors.h"

namespace tidegate::model {

class GgufBuilder {
 public:
  void SetText(const std::string& key, std::string_view value) {
    values_[key] = Number(8, 4) + Text(value);
  }
  void SetUnsigned(const std::string& key, uint64_t value) {
    values_[key] = Number(4, 4) + Number(value, 4);
  }
  void SetFloat(const std::string& key, float value) {
    values_[key] = Number(6, 4) + Number(std::bit_cast<uint32_t>(value), 4);
  }
  void SetBool(const std::string& key, bool value) {
    values_[key] = Number(7, 4) + std::string(1, value ? '\1' : '\0');
  }
  void SetTexts(const std::string& key, const std::vector<std::string>& values) {
    std::string out = Number(9, 4) + Number(8, 4) + Number(values.size(), 8);
    for (const std::string& value : values) out += Text(value);
    values_[key] = out;
  }
  void SetIntegers(const std::string& key, const std::vector<int32_t>& values) {
    std::string out = Number(9, 4) + Number(5, 4) + Number(values.size(), 8);
    for (const int32_t value : values) out += Number(static_cast<uint32_t>(value), 4);
    values_[key] = out;
  }
  void Remove(const std::string& key) { values_.erase(key); }
  bool Has(const std::string& key) const { return values_.contains(key); }

  // f32, slowest dimension first.
  void SetTensor(const std::string& name, tensor::Shape shape, std::vector<float> values) {
    tensors_[name] = {std::move(shape), std::move(values)};
  }
  void RemoveTensor(const std::string& name) { tensors_.erase(name); }
  std::vector<float>& Values(const std::string& name) { return tensors_.at(name).values; }

  Bytes Build() const {
    std::string out = Number(0x46554747, 4) + Number(3, 4) + Number(tensors_.size(), 8) +
                      Number(values_.size(), 8);
    for (const auto& [key, value] : values_) out += Text(key) + value;
    std::string data;
    for (const auto& [name, tensor] : tensors_) {
      out += Text(name) + Number(tensor.shape.size(), 4);
      for (size_t i = tensor.shape.size(); i-- > 0;) {
        out += Number(static_cast<uint64_t>(tensor.shape[i]), 8);
      }
      out += Number(0, 4) + Number(data.size(), 8);
      for (const float value : tensor.values) data += Number(std::bit_cast<uint32_t>(value), 4);
      data.resize((data.size() + 31) / 32 * 32);
    }
    out.resize((out.size() + 31) / 32 * 32);
    out += data;
    return Bytes(out.begin(), out.end());
  }

 private:
  struct Tensor {
    tensor::Shape shape;
    std::vector<float> values;
  };
  static std::string Number(uint64_t value, size_t bytes) {
    uint8_t buffer[8];
    StoreLe64(buffer, value);
    return std::string(buffer, buffer + bytes);
  }
  static std::string Text(std::string_view text) {
    return Number(text.size(), 8) + std::string(text);
  }

  std::map<std::string, std::string> values_;
  std::map<std::string, Tensor> tensors_;
};

// Hidden 16, inner 8, one layer, two heads of 8 with one for keys and values, five tokens. Weight i
// of tensor number t is t + i / 1024.
inline GgufBuilder SmallModel(const std::string& architecture) {
  GgufBuilder b;
  b.SetText("general.architecture", architecture);
  b.SetUnsigned(architecture + ".embedding_length", 16);
  b.SetUnsigned(architecture + ".feed_forward_length", 8);
  b.SetUnsigned(architecture + ".block_count", 1);
  b.SetUnsigned(architecture + ".attention.head_count", 2);
  b.SetUnsigned(architecture + ".attention.head_count_kv", 1);
  b.SetUnsigned(architecture + ".context_length", 128);
  b.SetUnsigned(architecture + ".rope.dimension_count", 8);
  b.SetFloat(architecture + ".rope.freq_base", 100000.0f);
  b.SetFloat(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f);
  b.SetText("tokenizer.ggml.model", "gpt2");
  b.SetText("tokenizer.ggml.pre", "smollm");
  b.SetTexts("tokenizer.ggml.tokens", {"<s>", "1", "2", "12", "<tool>"});
  b.SetIntegers("tokenizer.ggml.token_type", {3, 1, 1, 1, 4});
  b.SetTexts("tokenizer.ggml.merges", {"1 2"});
  b.SetUnsigned("tokenizer.ggml.bos_token_id", 0);
  b.SetUnsigned("tokenizer.ggml.eos_token_id", 0);
  b.SetText("tokenizer.chat_template", "{{ messages[0]['content'] }}");
  const std::pair<const char*, tensor::Shape> tensors[] = {
      {"token_embd.weight", {5, 16}},     {"output_norm.weight", {16}},
      {"blk.0.attn_norm.weight", {16}},   {"blk.0.ffn_norm.weight", {16}},
      {"blk.0.attn_q.weight", {16, 16}},  {"blk.0.attn_k.weight", {8, 16}},
      {"blk.0.attn_v.weight", {8, 16}},   {"blk.0.attn_output.weight", {16, 16}},
      {"blk.0.ffn_gate.weight", {8, 16}}, {"blk.0.ffn_up.weight", {8, 16}},
      {"blk.0.ffn_down.weight", {16, 8}}};
  float number = 0;
  for (const auto& [name, shape] : tensors) {
    std::vector<float> values(static_cast<size_t>(shape[0] * (shape.size() > 1 ? shape[1] : 1)));
    for (size_t i = 0; i < values.size(); ++i) values[i] = number + static_cast<float>(i) / 1024;
    b.SetTensor(name, shape, std::move(values));
    number += 1;
  }
  return b;
}

inline GgufBuilder SmallLlama() { return SmallModel("llama"); }

}  // namespace tidegate::model
