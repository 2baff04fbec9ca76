#include "model/adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "golden_model.h"
#include "temp_model.h"

namespace tidegate::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

ModelConfig TinyConfig() { return Must(LoadHfConfig(GoldenDir("tiny_llama") / "config.json")); }

LoraConfig Lora(std::string_view targets = "all-linear") {
  LoraConfig lora;
  lora.r = 4;
  lora.alpha = 8;
  lora.targets = Must(ParseTargets(targets));
  return lora;
}

Bytes FileBytes(const fs::path& path) { return Must(ReadFile(path, 1 << 24)); }

TEST(Adapter, LiesInLayoutOrder) {
  const auto layout = AdapterLayout(TinyConfig(), Lora("down_proj,q_proj"));
  ASSERT_EQ(layout.size(), 3u * 2 * 2);
  EXPECT_EQ(layout[0].name, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
  EXPECT_EQ(layout[1].name, "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
  EXPECT_EQ(layout[2].name, "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight");
  EXPECT_EQ(layout[11].name, "base_model.model.model.layers.2.mlp.down_proj.lora_B.weight");
  int64_t offset = 0;
  for (const AdapterTensor& tensor : layout) {
    EXPECT_EQ(tensor.offset, offset) << tensor.name;
    offset += tensor.count();
  }
  EXPECT_EQ(offset, 3 * (4 * 96 + 96 * 4 + 4 * 160 + 96 * 4));
}

// PEFT's kaiming_uniform(a = sqrt 5): variance 1 / (3 in).
TEST(Adapter, StartsAsPeftStarts) {
  const Adapter adapter = Adapter::Create(TinyConfig(), Lora(), 1);
  EXPECT_TRUE(std::ranges::equal(adapter.parameters(),
                                 Adapter::Create(TinyConfig(), Lora(), 1).parameters()));
  EXPECT_FALSE(std::ranges::equal(adapter.parameters(),
                                  Adapter::Create(TinyConfig(), Lora(), 2).parameters()));
  for (const AdapterTensor& tensor : adapter.tensors()) {
    double squares = 0;
    const double bound = 1 / std::sqrt(static_cast<double>(tensor.cols));
    for (const float value : Part(adapter.parameters(), tensor)) {
      squares += static_cast<double>(value) * static_cast<double>(value);
      EXPECT_LE(std::fabs(static_cast<double>(value)), bound + 1e-7) << tensor.name;
    }
    const double variance = squares / static_cast<double>(tensor.count());
    if (tensor.is_b) {
      EXPECT_EQ(squares, 0) << tensor.name;
    } else {
      EXPECT_NEAR(variance, bound * bound / 3, 0.25 * bound * bound / 3) << tensor.name;
    }
  }
}

TEST(Adapter, ScaleFollowsTheRank) {
  LoraConfig lora = Lora();
  EXPECT_EQ(lora.scale(), 2.0);
  lora.rslora = true;
  EXPECT_EQ(lora.scale(), 4.0);
}

TEST(Adapter, TargetsAreParsedOrRefused) {
  EXPECT_EQ(Must(ParseTargets("v_proj,q_proj")), (std::vector{Module::kQ, Module::kV}));
  EXPECT_EQ(Must(ParseTargets("all-linear")).size(), 7u);
  EXPECT_THAT(ParseTargets("q_proj,lm_head").error().message(), HasSubstr("'lm_head'"));
  EXPECT_THAT(ParseTargets("q_proj,q_proj").error().message(), HasSubstr("q_proj is listed twice"));
  EXPECT_FALSE(ParseTargets(""));
  EXPECT_FALSE(ParseTargets("q_proj,"));
}

TEST(Adapter, LayersAreParsedOrRefused) {
  EXPECT_EQ(Must(ParseLayers("")), std::vector<int64_t>{});
  EXPECT_EQ(Must(ParseLayers("7,0,12")), (std::vector<int64_t>{0, 7, 12}));
  EXPECT_THAT(ParseLayers("1,2,1").error().message(), HasSubstr("layer 1 is listed twice"));
  for (const char* bad : {"1,", ",", "-1", "x", "1.5", "1 ", "99999999999999999999"}) {
    EXPECT_THAT(ParseLayers(bad).error().message(), HasSubstr("is no layer")) << bad;
  }
  LoraConfig lora = Lora();
  lora.layers = {0, 2};
  EXPECT_TRUE(CheckLoraFits(lora, TinyConfig()).ok());
  lora.layers = {0, 3};
  EXPECT_THAT(CheckLoraFits(lora, TinyConfig()).message(),
              HasSubstr("names layer 3: the base has layers 0 to 2"));
  lora.layers = {2, 2};
  EXPECT_THAT(CheckLora(lora).message(), HasSubstr("2 is out of place"));
}

TEST(Adapter, AbsurdConfigurationsAreRefused) {
  const auto message = [](auto change) {
    LoraConfig lora = Lora();
    change(lora);
    return CheckLora(lora).message();
  };
  EXPECT_TRUE(CheckLora(Lora()).ok());
  EXPECT_THAT(message([](auto& l) { l.r = 0; }), HasSubstr("rank r is 0"));
  EXPECT_THAT(message([](auto& l) { l.r = kMaxLoraRank + 1; }), HasSubstr("rank r is 4097"));
  EXPECT_THAT(message([](auto& l) { l.alpha = 0; }), HasSubstr("alpha is 0"));
  EXPECT_THAT(message([](auto& l) { l.alpha = std::nan(""); }), HasSubstr("alpha is nan"));
  EXPECT_THAT(message([](auto& l) { l.dropout = 1; }), HasSubstr("dropout is 1"));
  EXPECT_THAT(message([](auto& l) { l.dropout = std::nan(""); }), HasSubstr("dropout is nan"));
  EXPECT_THAT(message([](auto& l) { l.targets = {Module::kV, Module::kQ}; }), HasSubstr("q_proj"));
}

TEST(PeftFolder, ComesBackBitForBitAndIsTheSameBytesEachTime) {
  const TempDir dir;
  LoraConfig lora = Lora("q_proj,o_proj,down_proj");
  lora.alpha = 12.5;
  lora.dropout = 0.05;
  lora.rslora = true;
  Adapter adapter = Adapter::Create(TinyConfig(), lora, 5);
  const std::span<float> parameters = adapter.parameters();
  parameters[0] = -0.0f;
  parameters[1] = std::numeric_limits<float>::denorm_min();
  parameters[2] = -std::numeric_limits<float>::max();
  ASSERT_TRUE(SavePeft(dir.path() / "one", adapter, "some/base").ok());
  ASSERT_TRUE(SavePeft(dir.path() / "two", adapter, "some/base").ok());
  const Adapter loaded = Must(LoadPeft(dir.path() / "one", TinyConfig()));
  EXPECT_EQ(std::memcmp(loaded.parameters().data(), parameters.data(), parameters.size_bytes()), 0);
  EXPECT_EQ(loaded.parameters().size(), parameters.size());
  EXPECT_EQ(loaded.lora().r, 4);
  EXPECT_EQ(loaded.lora().alpha, 12.5);
  EXPECT_EQ(loaded.lora().dropout, 0.05);
  EXPECT_EQ(loaded.lora().targets, lora.targets);
  EXPECT_TRUE(loaded.lora().rslora);
  ASSERT_TRUE(SavePeft(dir.path() / "three", loaded, "some/base").ok());
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(FileBytes(dir.path() / "one" / file), FileBytes(dir.path() / "two" / file));
    EXPECT_EQ(FileBytes(dir.path() / "one" / file), FileBytes(dir.path() / "three" / file));
  }
  EXPECT_EQ(ReadJson(dir.path() / "one/adapter_config.json")["base_model_name_or_path"],
            "some/base");
  EXPECT_FALSE(SavePeft(dir.path() / "four", adapter, "\xff\xfe").ok());
}

TEST(PeftFolder, OfSomeLayersHoldsThoseAlone) {
  const TempDir dir;
  LoraConfig lora = Lora("q_proj,down_proj");
  lora.layers = {0, 2};
  Adapter adapter = Adapter::Create(TinyConfig(), lora, 5);
  const Adapter whole = Adapter::Create(TinyConfig(), Lora("q_proj,down_proj"), 5);
  // What a layer starts with does not depend on which others there are.
  ASSERT_EQ(adapter.tensors().size(), 2u * 2 * 2);
  for (const AdapterTensor& tensor : whole.tensors()) {
    const auto same = std::ranges::find(adapter.tensors(), tensor.name, &AdapterTensor::name);
    ASSERT_EQ(same == adapter.tensors().end(), tensor.layer == 1) << tensor.name;
    if (tensor.layer == 1) continue;
    EXPECT_TRUE(
        std::ranges::equal(Part(adapter.parameters(), *same), Part(whole.parameters(), tensor)))
        << tensor.name;
  }
  ASSERT_TRUE(SavePeft(dir.path(), adapter, "some/base").ok());
  EXPECT_EQ(ReadJson(dir.path() / "adapter_config.json")["layers_to_transform"], (json{0, 2}));
  const Tensors tensors = ReadTensors(dir.path() / "adapter_model.safetensors");
  EXPECT_EQ(tensors.size(), 2u * 2 * 2);
  for (const auto& [name, tensor] : tensors) {
    EXPECT_THAT(name, testing::Not(HasSubstr("layers.1."))) << name;
  }
  const Adapter loaded = Must(LoadPeft(dir.path(), TinyConfig()));
  EXPECT_EQ(loaded.lora().layers, lora.layers);
  EXPECT_TRUE(std::ranges::equal(loaded.parameters(), adapter.parameters()));
}

// What PEFT itself wrote: suffixes in one folder, full module paths in the other.
TEST(PeftFolder, OfPeftIsReadWhole) {
  for (const char* name : {"tiny_llama", "tiny_llama_untied"}) {
    const fs::path dir = GoldenDir(name);
    const auto config = Must(LoadHfConfig(dir / "config.json"));
    const Adapter adapter = Must(LoadPeft(dir / "adapter_in", config));
    EXPECT_EQ(adapter.lora().targets.size(), 7u);
    const auto file =
        Must(tensor::SafetensorsFile::Open(dir / "adapter_in/adapter_model.safetensors"));
    EXPECT_EQ(file.tensors().size(), adapter.tensors().size());
    for (const AdapterTensor& tensor : adapter.tensors()) {
      EXPECT_TRUE(
          std::ranges::equal(Part(adapter.parameters(), tensor), Floats(file, tensor.name)));
    }
  }
}

// A copy of the golden adapter, damaged before it is read.
class DamagedPeftFolder : public testing::Test {
 protected:
  DamagedPeftFolder() {
    const fs::path from = GoldenDir("tiny_llama") / "adapter_in";
    config_ = ReadJson(from / "adapter_config.json");
    tensors_ = ReadTensors(from / "adapter_model.safetensors");
  }
  std::string Load() {
    WriteText(dir_.path() / "adapter_config.json", config_.dump());
    WriteTensors(dir_.path() / "adapter_model.safetensors", tensors_);
    const auto result = LoadPeft(dir_.path(), TinyConfig());
    return result ? "accepted" : result.error().ToString();
  }
  std::string LoadWith(const char* key, const json& value) {
    const json before = config_;
    config_[key] = value;
    std::string message = Load();
    config_ = before;
    return message;
  }

  TempDir dir_;
  json config_;
  Tensors tensors_;
  const std::string name_ = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight";
};

TEST_F(DamagedPeftFolder, NamesTheTensorThatIsMissing) {
  EXPECT_EQ(Load(), "accepted");
  tensors_.erase(name_);
  EXPECT_THAT(Load(), HasSubstr("tensor " + name_ + " is missing"));
}

TEST_F(DamagedPeftFolder, NamesTheTensorThatWasRenamed) {
  const std::string renamed = "model.layers.1.mlp.up_proj.lora_B.weight";
  tensors_[renamed] = tensors_[name_];
  EXPECT_THAT(Load(), HasSubstr("tensor " + renamed + " is unexpected"));
  tensors_.erase(name_);
  EXPECT_THAT(Load(), HasSubstr("tensor " + name_ + " is missing"));
}

TEST_F(DamagedPeftFolder, NamesTheTensorOfAnotherShape) {
  std::swap(tensors_[name_].shape[0], tensors_[name_].shape[1]);
  EXPECT_THAT(Load(), HasSubstr("tensor " + name_ + " has shape [4, 160], expected [160, 4]"));
}

TEST_F(DamagedPeftFolder, NamesTheTensorThatIsNotFinite) {
  const float value = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(tensors_[name_].bytes.data() + 40, &value, 4);
  EXPECT_THAT(Load(), HasSubstr("tensor " + name_ + " holds NaN or Inf"));
}

TEST_F(DamagedPeftFolder, HalfPrecisionIsReadAndIntegersAreRefused) {
  const Bytes zeros(static_cast<size_t>(160 * 4 * 2), 0);
  for (const auto dtype : {tensor::DType::kF16, tensor::DType::kBF16}) {
    tensors_[name_] = {dtype, {160, 4}, zeros};
    EXPECT_EQ(Load(), "accepted");
  }
  tensors_[name_] = {tensor::DType::kI32, {160, 4}, Bytes(160 * 4 * 4, 0)};
  EXPECT_THAT(Load(), HasSubstr(name_));
}

TEST_F(DamagedPeftFolder, FeaturesThatAreNotBuiltAreRefusedByName) {
  EXPECT_THAT(LoadWith("use_dora", true), HasSubstr("use_dora is switched on"));
  EXPECT_THAT(LoadWith("modules_to_save", {"lm_head"}), HasSubstr("modules_to_save"));
  EXPECT_THAT(LoadWith("layers_pattern", "layers"), HasSubstr("layers_pattern"));
  EXPECT_THAT(LoadWith("lora_bias", true), HasSubstr("lora_bias"));
  EXPECT_THAT(LoadWith("fan_in_fan_out", true), HasSubstr("fan_in_fan_out"));
  EXPECT_THAT(LoadWith("bias", "all"), HasSubstr("bias is \"all\""));
  EXPECT_THAT(LoadWith("peft_type", "IA3"), HasSubstr("peft_type is \"IA3\""));
  EXPECT_THAT(LoadWith("init_lora_weights", "pissa"), HasSubstr("init_lora_weights is \"pissa\""));
  EXPECT_EQ(LoadWith("init_lora_weights", "gaussian"), "accepted");
}

TEST_F(DamagedPeftFolder, NumbersOutOfRangeAreRefused) {
  EXPECT_THAT(LoadWith("r", 0), HasSubstr("rank r is 0"));
  EXPECT_THAT(LoadWith("r", -4), HasSubstr("rank r is -4"));
  EXPECT_THAT(LoadWith("r", 18446744073709551615ull), HasSubstr("choose 1 to 4096"));
  EXPECT_THAT(LoadWith("r", 4.5), HasSubstr("r is 4.5, it must be an integer"));
  EXPECT_THAT(LoadWith("r", 8), HasSubstr("has shape [4, 96], expected [8, 96]"));
  EXPECT_THAT(LoadWith("rank_pattern", {{"q_proj", 8}}),
              HasSubstr("q_proj.lora_A.weight has shape [4, 96], expected [8, 96]"));
  EXPECT_THAT(LoadWith("rank_pattern", {{"q_proj", 0}}),
              HasSubstr("adapter_config.json: rank_pattern has rank 0 for \"q_proj\""));
  EXPECT_THAT(LoadWith("rank_pattern", {8}), HasSubstr("rank_pattern is [8]"));
  EXPECT_THAT(LoadWith("alpha_pattern", {{"q_proj", "8"}}), HasSubstr("the alpha of \"q_proj\""));
  EXPECT_THAT(LoadWith("alpha_pattern", {{"((\\w|\\.)+)+[!,]", 8}}), HasSubstr("gave up on"));
  EXPECT_THAT(LoadWith("lora_alpha", "8"), HasSubstr("lora_alpha is \"8\""));
  EXPECT_THAT(LoadWith("lora_alpha", -1), HasSubstr("alpha is -1"));
  EXPECT_THAT(LoadWith("lora_dropout", 1.0), HasSubstr("dropout is 1"));
}

TEST_F(DamagedPeftFolder, TargetsMustBeWholeModules) {
  EXPECT_EQ(LoadWith("target_modules", "all-linear"), "accepted");
  EXPECT_THAT(LoadWith("target_modules", ".*_proj"), HasSubstr("target_modules is \".*_proj\""));
  EXPECT_THAT(LoadWith("target_modules", json::array()), HasSubstr("target_modules is []"));
  EXPECT_THAT(LoadWith("target_modules", {"q_proj", "lm_head"}), HasSubstr("\"lm_head\""));
  EXPECT_THAT(LoadWith("target_modules", {"q_proj", 7}), HasSubstr("target module 7"));
  EXPECT_THAT(LoadWith("target_modules", {"q_proj"}), HasSubstr("is unexpected"));
  for (const char* bad :
       {"model.layers.3.self_attn.q_proj", "model.layers.-1.self_attn.q_proj",
        "model.layers.0.q_proj", "model.layers.0self_attn.q_proj", "model.self_attn.q_proj",
        "model.layers.99999999999999999999.self_attn.q_proj", "layers.", ""}) {
    EXPECT_THAT(LoadWith("target_modules", {bad}), HasSubstr("is not supported")) << bad;
  }
  json in_every_layer = {"self_attn.k_proj", "v_proj",  "o_proj",
                         "mlp.gate_proj",    "up_proj", "down_proj"};
  for (const char* path : {"model.layers.0.self_attn.q_proj", "layers.2.self_attn.q_proj"}) {
    in_every_layer.push_back(path);
  }
  EXPECT_THAT(LoadWith("target_modules", in_every_layer), HasSubstr("q_proj in 2 of the 3 layers"));
  in_every_layer.push_back("model.layers.1.self_attn.q_proj");
  EXPECT_EQ(LoadWith("target_modules", in_every_layer), "accepted");
}

TEST_F(DamagedPeftFolder, LayersMustBeThoseOfTheBase) {
  for (const json& all : {json(nullptr), json::array(), json{2, 1, 0}}) {
    EXPECT_EQ(LoadWith("layers_to_transform", all), "accepted") << all;
  }
  EXPECT_THAT(LoadWith("layers_to_transform", 1), HasSubstr("is unexpected"));
  for (const json& bad : {json(3), json{0, -1}, json{0.5}, json("0"), json{"0"}, json(true)}) {
    EXPECT_THAT(LoadWith("layers_to_transform", bad), HasSubstr("layers_to_transform has")) << bad;
  }
}

TEST_F(DamagedPeftFolder, FilesThatAreMissingOrNoJsonAreNamed) {
  EXPECT_THAT(LoadPeft(dir_.path(), TinyConfig()).error().ToString(),
              HasSubstr("adapter_config.json"));
  WriteText(dir_.path() / "adapter_config.json", config_.dump());
  EXPECT_THAT(LoadPeft(dir_.path(), TinyConfig()).error().ToString(),
              HasSubstr("adapter_model.safetensors"));
  WriteText(dir_.path() / "adapter_config.json", "{\"r\": 4, \"r\": 8}");
  EXPECT_THAT(LoadPeft(dir_.path(), TinyConfig()).error().ToString(),
              HasSubstr("adapter_config.json"));
  WriteText(dir_.path() / "adapter_config.json", "[]");
  EXPECT_THAT(LoadPeft(dir_.path(), TinyConfig()).error().ToString(),
              HasSubstr("not a JSON object"));
}

}  // namespace
}  // namespace tidegate::model
