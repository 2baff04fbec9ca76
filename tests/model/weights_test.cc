// Model folders that Base::Load takes or refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "golden_model.h"
#include "model/transformer.h"
#include "temp_model.h"

namespace tidegate::model {
namespace {

using kernels::DType;
using testing::HasSubstr;

class WeightsFolder : public testing::Test {
 protected:
  WeightsFolder() {
    config_ = ReadJson(GoldenDir("tiny_llama") / "config.json");
    tensors_ = ReadTensors(GoldenDir("tiny_llama") / "model.safetensors");
  }
  Result<std::shared_ptr<const Base>> Load(DType dtype = DType::kF32) {
    WriteText(dir_.path() / "config.json", config_.dump());
    WriteTensors(dir_.path() / "model.safetensors", tensors_);
    return Base::Load(dir_.path(), {.dtype = dtype});
  }
  std::string Message(DType dtype = DType::kF32) {
    const auto result = Load(dtype);
    return result ? "accepted" : result.error().ToString();
  }
  // The tensor's values in another type.
  void StoreAs(tensor::DType dtype, OwnedTensor* tensor) {
    std::vector<float> values(tensor->bytes.size() / 4);
    std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
    tensor->dtype = dtype;
    tensor->bytes.resize(values.size() * tensor::DTypeSize(dtype));
    tensor::FromFloats(dtype, values, tensor->bytes.data());
  }
  double Loss(DType dtype = DType::kF32) {
    const auto engine = Must(Engine::Create(Must(Load(dtype)), LoraConfig()));
    return Must(engine->Evaluate(Pack({{{5, 9, 300, 41}, {0, 1, 1, 1}}}))).loss;
  }
  void PutFloat(const std::string& name, size_t index, float value) {
    std::memcpy(tensors_.at(name).bytes.data() + 4 * index, &value, 4);
  }

  TempDir dir_;
  nlohmann::json config_;
  Tensors tensors_;
  const std::string down_ = "model.layers.2.mlp.down_proj.weight";
};

TEST_F(WeightsFolder, EveryBiasIsReadAndAdded) {
  const double loss = Loss();
  config_["attention_bias"] = config_["mlp_bias"] = true;
  EXPECT_THAT(Message(), HasSubstr("model.layers.0.self_attn.q_proj.bias"));
  const ModelConfig shape = Must(LoadHfConfig(dir_.path() / "config.json"));
  std::vector<std::string> names;
  for (int i = 0; i < 3 * kModulesPerLayer; ++i) {
    const Module module = static_cast<Module>(i % kModulesPerLayer);
    names.push_back(
        fmt::format("model.layers.{}.{}.bias", i / kModulesPerLayer, ModulePath(module)));
    const int64_t out = ShapeOf(shape, module).out;
    tensors_[names.back()] = {tensor::DType::kF32, {out}, Bytes(static_cast<size_t>(4 * out))};
  }
  EXPECT_EQ(Loss(), loss) << "biases of zero change nothing";
  for (const std::string& name : names) {
    // A key's bias turns every score of a query by the same amount, but for RoPE.
    for (size_t i = 0; i < 8; ++i) PutFloat(name, i, 0.5f);
    EXPECT_NE(Loss(), loss) << name;
    for (size_t i = 0; i < 8; ++i) PutFloat(name, i, 0);
  }
}

// Golden weights are bf16 values, so every type holds them exactly, wherever it can be read from.
TEST_F(WeightsFolder, TheStoredTypeDoesNotMatter) {
  const double loss = Loss();
  for (auto& [name, tensor] : tensors_) StoreAs(tensor::DType::kBF16, &tensor);
  EXPECT_EQ(Loss(), loss);
  if (HasBf16()) {
    const double bf16 = Loss(DType::kBF16);
    EXPECT_NEAR(bf16 / loss, 1, 5e-3);
    tensors_ = ReadTensors(GoldenDir("tiny_llama") / "model.safetensors");
    EXPECT_EQ(Loss(DType::kBF16), bf16);
  }
}

TEST_F(WeightsFolder, HalfPrecisionIsRead) {
  OwnedTensor& norm = tensors_.at("model.norm.weight");
  for (size_t i = 0; i < norm.bytes.size() / 4; ++i) PutFloat("model.norm.weight", i, 0.75f);
  const double loss = Loss();
  StoreAs(tensor::DType::kF16, &norm);
  EXPECT_EQ(Loss(), loss);
}

TEST_F(WeightsFolder, ValuesThatAreNotFiniteAreRefusedByName) {
  ASSERT_EQ(Message(), "accepted");
  PutFloat(down_, 5000, std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT(Message(), HasSubstr("tensor " + down_ + " holds NaN or Inf"));
  PutFloat(down_, 5000, 0.0f);
  PutFloat("model.embed_tokens.weight", 0, -std::numeric_limits<float>::infinity());
  EXPECT_THAT(Message(), HasSubstr("tensor model.embed_tokens.weight holds NaN or Inf"));
  PutFloat("model.embed_tokens.weight", 0, 0.0f);
  PutFloat("model.layers.0.input_layernorm.weight", 95, 3.4e38f);  // Inf once rounded to bf16
  EXPECT_EQ(Message(), "accepted");
  if (HasBf16()) {
    EXPECT_THAT(Message(DType::kBF16), HasSubstr("model.layers.0.input_layernorm.weight holds"));
  }
}

TEST_F(WeightsFolder, TensorsThatDoNotFitAreRefusedByName) {
  const OwnedTensor whole = tensors_.at(down_);
  tensors_.erase(down_);
  EXPECT_THAT(Message(), HasSubstr(down_));
  tensors_[down_] = whole;
  std::swap(tensors_[down_].shape[0], tensors_[down_].shape[1]);
  EXPECT_THAT(Message(), HasSubstr(down_ + " has shape [160, 96], config.json says [96, 160]"));
  tensors_[down_] = {tensor::DType::kI32, whole.shape, whole.bytes};
  EXPECT_THAT(Message(), HasSubstr(down_ + " is I32: weights must be F32, F16 or BF16"));
  tensors_[down_] = whole;
  tensors_["model.layers.0.self_attn.q_proj.bias"] = {tensor::DType::kF32, {96}, Bytes(96 * 4, 0)};
  EXPECT_THAT(Message(), HasSubstr("model.layers.0.self_attn.q_proj.bias has no place"));
  tensors_.erase("model.layers.0.self_attn.q_proj.bias");
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {
      tensor::DType::kF32, {16}, Bytes(16 * 4, 0)};
  EXPECT_EQ(Message(), "accepted");
  config_["num_hidden_layers"] = 2;
  EXPECT_THAT(Message(), HasSubstr("model.layers.2."));
}

// As in transformers, a tied model's own head is not used.
TEST_F(WeightsFolder, ATiedModelIgnoresAStoredHead) {
  const double loss = Loss();
  tensors_["lm_head.weight"] = tensors_.at("model.embed_tokens.weight");
  PutFloat("lm_head.weight", 7, 100.0f);
  EXPECT_EQ(Loss(), loss);
  config_["tie_word_embeddings"] = false;
  EXPECT_NE(Loss(), loss);
  tensors_.erase("lm_head.weight");
  EXPECT_THAT(Message(), HasSubstr("lm_head.weight"));
}

TEST_F(WeightsFolder, DamagedFilesAreNamed) {
  WriteText(dir_.path() / "config.json", config_.dump());
  EXPECT_THAT(Base::Load(dir_.path(), {}).error().ToString(), HasSubstr("model.safetensors"));
  const Bytes whole = Must(ReadFile(GoldenDir("tiny_llama") / "model.safetensors", 1 << 24));
  ASSERT_TRUE(
      WriteFileDurably(dir_.path() / "model.safetensors", ByteSpan(whole).first(whole.size() - 4))
          .ok());
  const auto cut = Base::Load(dir_.path(), {});
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code(), Code::kDataLoss);
  EXPECT_THAT(cut.error().message(), HasSubstr("model.safetensors"));
}

}  // namespace
}  // namespace tidegate::model
