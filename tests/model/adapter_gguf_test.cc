// Adapters for llama.cpp: names, shapes and the order of rows, held against a base of the same
// order.
#include "model/adapter_gguf.h"

#include <gtest/gtest.h>

#include "golden_model.h"
#include "tensor/gguf.h"

namespace tidegate::model {
namespace {

using tensor::GgufFile;

LoraConfig AllLinear() {
  LoraConfig lora;
  lora.r = 4;
  lora.alpha = 6;
  lora.targets = Must(ParseTargets("all-linear"));
  return lora;
}

Adapter Counted(const ModelConfig& config, const LoraConfig& lora) {
  Adapter adapter = Adapter::CreateZero(config, lora);
  for (size_t i = 0; i < adapter.parameters().size(); ++i) {
    adapter.parameters()[i] = static_cast<float>(i);
  }
  return adapter;
}

std::vector<float> Values(const GgufFile& file, const std::string& name) {
  const tensor::GgufTensor* tensor = Must(file.Get(name));
  std::vector<float> out(static_cast<size_t>(tensor->num_elements()));
  EXPECT_TRUE(tensor::Dequantize(*tensor, 0, out).ok());
  return out;
}

class GgufAdapter : public testing::Test {
 protected:
  void Encode(const std::string& model, const LoraConfig& lora) {
    config_ = Must(LoadHfConfig(GoldenDir(model) / "config.json"));
    adapter_ = std::make_unique<Adapter>(Counted(config_, lora));
    bytes_ = EncodeGgufAdapter(config_, *adapter_);
    file_ = std::make_unique<GgufFile>(Must(GgufFile::Parse(bytes_, "adapter.gguf")));
  }
  const AdapterTensor& Of(int layer, Module module, bool is_b) const {
    for (const AdapterTensor& tensor : adapter_->tensors()) {
      if (tensor.layer == layer && tensor.module == module && tensor.is_b == is_b) return tensor;
    }
    throw std::runtime_error("no such tensor");
  }
  float At(const AdapterTensor& tensor, int64_t row, int64_t column) const {
    return adapter_->parameters()[static_cast<size_t>(tensor.offset + row * tensor.cols + column)];
  }

  ModelConfig config_;
  std::unique_ptr<Adapter> adapter_;
  Bytes bytes_;
  std::unique_ptr<GgufFile> file_;
};

TEST_F(GgufAdapter, SaysWhatItIs) {
  Encode("tiny_mistral", AllLinear());
  EXPECT_EQ(Must(file_->GetString("general.architecture")), "llama");
  EXPECT_EQ(Must(file_->GetString("general.type")), "adapter");
  EXPECT_EQ(Must(file_->GetString("adapter.type")), "lora");
  EXPECT_EQ(Must(file_->GetFloat("adapter.lora.alpha")), 6);
  EXPECT_EQ(file_->tensors().size(), adapter_->tensors().size());
  EXPECT_EQ(EncodeGgufAdapter(config_, *adapter_), bytes_);
}

TEST_F(GgufAdapter, ShapesAreThoseOfTheMatrices) {
  Encode("tiny_llama", AllLinear());
  EXPECT_EQ(Must(file_->Get("blk.2.ffn_down.weight.lora_a"))->shape, (tensor::Shape{4, 160}));
  EXPECT_EQ(Must(file_->Get("blk.2.ffn_down.weight.lora_b"))->shape, (tensor::Shape{96, 4}));
  const auto values = Values(*file_, "blk.1.attn_v.weight.lora_b");
  EXPECT_EQ(values[9], At(Of(1, Module::kV, true), 2, 1));
}

// llama.cpp's converter: [heads, 2, half] of a head's rows become [heads, half, 2].
TEST_F(GgufAdapter, RowsOfQAndKLieAsTheConverterLaysThem) {
  Encode("tiny_mistral", AllLinear());
  for (const auto& [module, name, heads] :
       {std::tuple{Module::kQ, "attn_q", config_.num_heads},
        std::tuple{Module::kK, "attn_k", config_.num_kv_heads}}) {
    const AdapterTensor& b = Of(0, module, true);
    const auto values = Values(*file_, fmt::format("blk.0.{}.weight.lora_b", name));
    const int64_t half = config_.head_dim / 2;
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < half; ++i) {
        for (int64_t part = 0; part < 2; ++part) {
          const int64_t to = head * 2 * half + 2 * i + part;
          const int64_t from = head * 2 * half + part * half + i;
          EXPECT_EQ(values[static_cast<size_t>(to * b.cols + 3)], At(b, from, 3)) << name;
        }
      }
    }
    const AdapterTensor& a = Of(0, module, false);
    EXPECT_EQ(Values(*file_, fmt::format("blk.0.{}.weight.lora_a", name))[5], At(a, 0, 5));
  }
}

TEST_F(GgufAdapter, OtherArchitecturesKeepTheirRows) {
  for (const char* model : {"tiny_qwen2", "tiny_qwen3"}) {
    Encode(model, AllLinear());
    EXPECT_EQ(Must(file_->GetString("general.architecture")), config_.model_type);
    const AdapterTensor& b = Of(1, Module::kQ, true);
    const auto values = Values(*file_, "blk.1.attn_q.weight.lora_b");
    for (int64_t row = 0; row < b.rows; ++row) {
      EXPECT_EQ(values[static_cast<size_t>(row * b.cols)], At(b, row, 0));
    }
  }
}

TEST_F(GgufAdapter, RsLorasScaleIsInAlphaAndOtherLayersAreLeftOut) {
  LoraConfig lora = AllLinear();
  lora.rslora = true;
  lora.layers = {1};
  Encode("tiny_llama", lora);
  EXPECT_EQ(Must(file_->GetFloat("adapter.lora.alpha")) / 4, lora.scale());
  EXPECT_EQ(file_->Find("blk.0.attn_q.weight.lora_a"), nullptr);
  EXPECT_NE(file_->Find("blk.1.attn_q.weight.lora_a"), nullptr);
}

}  // namespace
}  // namespace tidegate::model
