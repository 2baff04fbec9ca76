#include "tensor/gguf_write.h"

#include <bit>

namespace tidegate::tensor {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kVersion = 3;
constexpr size_t kAlignment = 32;
constexpr uint32_t kTypeFloat = 6, kTypeText = 8;
constexpr uint32_t kGgmlF32 = 0;

void Append32(Bytes& out, uint32_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}
void Append64(Bytes& out, uint64_t value) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}
void AppendText(Bytes& out, std::string_view text) {
  Append64(out, text.size());
  out.insert(out.end(), text.begin(), text.end());
}
void Pad(Bytes& out) { out.resize((out.size() + kAlignment - 1) / kAlignment * kAlignment); }

size_t PaddedBytes(size_t floats) {
  return (4 * floats + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

void GgufBuilder::SetText(const std::string& key, std::string_view value) {
  Bytes& out = values_[key];
  out.clear();
  Append32(out, kTypeText);
  AppendText(out, value);
}

void GgufBuilder::SetFloat(const std::string& key, float value) {
  Bytes& out = values_[key];
  out.clear();
  Append32(out, kTypeFloat);
  Append32(out, std::bit_cast<uint32_t>(value));
}

void GgufBuilder::AddTensor(std::string name, Shape shape, std::vector<float> values) {
  tensors_.push_back({std::move(name), std::move(shape), std::move(values)});
}

Bytes GgufBuilder::Build() const {
  Bytes out;
  Append32(out, kMagic);
  Append32(out, kVersion);
  Append64(out, tensors_.size());
  Append64(out, values_.size());
  for (const auto& [key, value] : values_) {
    AppendText(out, key);
    out.insert(out.end(), value.begin(), value.end());
  }
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    AppendText(out, tensor.name);
    Append32(out, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) {
      Append64(out, static_cast<uint64_t>(tensor.shape[i]));
    }
    Append32(out, kGgmlF32);
    Append64(out, offset);
    offset += PaddedBytes(tensor.values.size());
  }
  Pad(out);
  for (const Tensor& tensor : tensors_) {
    for (const float value : tensor.values) Append32(out, std::bit_cast<uint32_t>(value));
    Pad(out);
  }
  return out;
}

}  // namespace tidegate::tensor
