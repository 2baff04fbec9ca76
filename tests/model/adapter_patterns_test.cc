// Ranks and alphas by module against PEFT: tests/golden/make_patterns.py says how the numbers were
// made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "golden_model.h"
#include "model/adapter_gguf.h"
#include "model/adapter_merge.h"
#include "model/transformer.h"
#include "temp_model.h"
#include "tensor/gguf.h"

namespace tidegate::model {
namespace {

namespace fs = std::filesystem;
using kernels::DType;
using nlohmann::json;
using tensor::SafetensorsFile;
using testing::HasSubstr;

TEST(PathPattern, EveryModuleHasTheKeyThatPeftTakes) {
  const json golden = ReadJson(GoldenDir("patterns") / "matches.json");
  for (const json& one : golden["cases"]) {
    for (size_t i = 0; i < golden["paths"].size(); ++i) {
      const std::string path = golden["paths"][i];
      json taken = nullptr;
      for (const std::string key : one["keys"]) {
        if (Must(Must(PathPattern::Compile(key)).Matches(path))) {
          taken = key;
          break;
        }
      }
      EXPECT_EQ(taken, one["taken"][i]) << one["keys"] << " of " << path;
    }
  }
}

TEST(PathPattern, WhatPythonWouldReadOtherwiseIsRefused) {
  for (const char* key : {"(", "a)", "[a", "*a", "a\\", "\\hproj", "\\R", "\\K", "(*ACCEPT)",
                          "(?R)", "(?1)", "(?|a|b)", "(?i)Q_PROJ", "[[:alpha:]]+", "a{,2}"}) {
    const auto pattern = PathPattern::Compile(key);
    ASSERT_FALSE(pattern) << key;
    EXPECT_THAT(pattern.error().message(), HasSubstr(fmt::format("pattern \"{}\"", key)));
  }
  EXPECT_THAT(PathPattern::Compile("").error().message(), HasSubstr("has 0 bytes"));
  EXPECT_THAT(PathPattern::Compile(std::string(257, 'a')).error().message(),
              HasSubstr("has 257 bytes, allowed are 1 to 256"));
}

TEST(PathPattern, OneThatTakesForEverGivesUpByName) {
  const auto pattern = Must(PathPattern::Compile("((\\w|\\.)+)+[!,]"));
  const auto matches = pattern.Matches("model.layers.0.self_attn.q_proj");
  ASSERT_FALSE(matches);
  EXPECT_THAT(matches.error().message(), HasSubstr("((\\w|\\.)+)+[!,]"));
}

struct Case {
  const char* name;   // of the folder of patterns/
  const char* model;  // its base
};

class Patterns : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    base_ = Must(Base::Load(GoldenDir(GetParam().model), {.dtype = DType::kF32}));
    adapter_ = std::make_unique<Adapter>(Must(LoadPeft(dir_, base_->config())));
    engine_ = Must(Engine::Create(base_, adapter_->lora()));
    engine_->SetParameters(adapter_->parameters());
  }
  double Expected(const std::string& name) const {
    return static_cast<double>(Floats(trace_, name).at(0));
  }

  const fs::path dir_ = GoldenDir("patterns") / GetParam().name;
  const SafetensorsFile trace_ = Must(SafetensorsFile::Open(dir_ / "trace.safetensors"));
  std::shared_ptr<const Base> base_;
  std::unique_ptr<Adapter> adapter_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(Patterns, LossAndEveryGradientAreThoseOfPeft) {
  const auto sum = Must(engine_->ForwardBackward(Pack(Sequences(trace_, 0)), 0, 0));
  EXPECT_NEAR(sum.loss / static_cast<double>(sum.targets) / Expected("loss"), 1, 1e-6);
  std::vector<float> gradients(adapter_->parameters().size());
  engine_->TakeGradients(1.0 / static_cast<double>(sum.targets), gradients);
  std::set<int64_t> ranks;
  for (const AdapterTensor& tensor : adapter_->tensors()) {
    EXPECT_LT(RelativeL2(Part(gradients, tensor), Floats(trace_, "grad." + tensor.name)), 1e-4)
        << tensor.name;
    ranks.insert(tensor.is_b ? tensor.cols : tensor.rows);
  }
  EXPECT_GE(ranks.size(), 3u);
}

TEST_P(Patterns, LogitsAreThoseOfPeftAndOfTheMergedModel) {
  const TempDir dir;
  (void)Must(MergeAdapter(GoldenDir(GetParam().model), dir_, dir.path() / "merged", {}));
  const auto merged = Must(Engine::Create(
      Must(Base::Load(dir.path() / "merged", {.dtype = DType::kF32})), LoraConfig()));
  const auto sequences = Sequences(trace_, 0);
  const size_t vocab = static_cast<size_t>(base_->config().vocab_size);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const auto expected = Floats(trace_, fmt::format("logits.{}", s));
    for (Engine* engine : {engine_.get(), merged.get()}) {
      KvCache cache = engine->NewCache();
      const auto logits = Must(engine->Append(cache, sequences[s].ids));
      double worst = 0;
      for (size_t i = 0; i < vocab; ++i) {
        worst = std::max(worst, std::fabs(static_cast<double>(logits[i]) -
                                          static_cast<double>(expected.at(3 * vocab + i))));
      }
      EXPECT_LT(worst, 1e-4) << "segment " << s << (engine == merged.get() ? " merged" : "");
    }
  }
}

TEST_P(Patterns, ComeBackFromOurFolderInTheirOrder) {
  const TempDir dir;
  ASSERT_TRUE(SavePeft(dir.path(), *adapter_, "some/base").ok());
  const Adapter loaded = Must(LoadPeft(dir.path(), base_->config()));
  EXPECT_TRUE(std::ranges::equal(loaded.parameters(), adapter_->parameters()));
  EXPECT_EQ(RankPatternJson(loaded.lora()), RankPatternJson(adapter_->lora()));
  EXPECT_EQ(AlphaPatternJson(loaded.lora()), AlphaPatternJson(adapter_->lora()));
  for (size_t i = 0; i < loaded.tensors().size(); ++i) {
    EXPECT_EQ(loaded.tensors()[i].scale, adapter_->tensors()[i].scale);
  }
  const json config = ReadJson(dir.path() / "adapter_config.json");
  const json theirs = ReadJson(dir_ / "adapter_config.json");
  for (const char* key : {"rank_pattern", "alpha_pattern", "r", "lora_alpha", "use_rslora"}) {
    EXPECT_EQ(config[key], theirs[key]) << key;
  }
}

// llama.cpp multiplies by adapter.lora.alpha / (columns of lora_b).
TEST_P(Patterns, AreInTheGgufsScales) {
  const Bytes bytes = EncodeGgufAdapter(base_->config(), *adapter_);
  const auto file = Must(tensor::GgufFile::Parse(bytes, "adapter.gguf"));
  const double alpha = static_cast<double>(Must(file.GetFloat("adapter.lora.alpha")));
  for (const AdapterTensor& tensor : adapter_->tensors()) {
    // The one module whose rows stay as they are in every family.
    if (tensor.module != Module::kV || !tensor.is_b) continue;
    const auto* gguf = Must(file.Get(fmt::format("blk.{}.attn_v.weight.lora_b", tensor.layer)));
    std::vector<float> values(static_cast<size_t>(gguf->num_elements()));
    ASSERT_TRUE(tensor::Dequantize(*gguf, 0, values).ok());
    const auto ours = Part(adapter_->parameters(), tensor);
    for (size_t i = 0; i < values.size(); ++i) {
      const double theirs = static_cast<double>(values[i]) * alpha;
      EXPECT_NEAR(theirs / static_cast<double>(tensor.cols),
                  static_cast<double>(ours[i]) * tensor.scale, 1e-6);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(OfPeft, Patterns,
                         testing::Values(Case{"plain", "tiny_mistral"},
                                         Case{"rslora", "tiny_llama"}),
                         [](const auto& param) { return param.param.name; });

TEST(Pattern, TheFirstThatMatchesIsTheModules) {
  LoraConfig lora;
  lora.r = 4;
  lora.alpha = 8;
  lora.targets = Must(ParseTargets("all-linear"));
  lora.rank_pattern = Must(ParseRankPattern(R"({"q_proj": 2, ".*": 16, "v_proj": 3})", "here"));
  EXPECT_EQ(Must(lora.At(0, Module::kQ)).r, 2);
  EXPECT_EQ(Must(lora.At(0, Module::kV)).r, 16);
  EXPECT_EQ(Must(lora.At(0, Module::kV)).scale, 0.5);
  EXPECT_EQ(RankPatternJson(lora), R"({"q_proj":2,".*":16,"v_proj":3})");
  const auto config = Must(LoadHfConfig(GoldenDir("tiny_llama") / "config.json"));
  EXPECT_TRUE(CheckLoraFits(lora, config).ok());
  EXPECT_THAT(CheckPatternsAreUsed(lora, config).message(),
              HasSubstr("rank_pattern has \"v_proj\", which decides nothing"));
  // PEFT reads the file's order too: it must not come back sorted.
  const TempDir dir;
  ASSERT_TRUE(SavePeft(dir.path(), Adapter::Create(config, lora, 1), "b").ok());
  EXPECT_EQ(Must(LoadPeft(dir.path(), config)).tensors()[0].rows, 2);
}

TEST(Pattern, WhatIsNoRankOrAlphaIsRefused) {
  const auto rank = [](std::string_view text) {
    const auto entries = ParseRankPattern(text, "rank_pattern");
    if (!entries) return entries.error().ToString();
    LoraConfig lora;
    lora.rank_pattern = *entries;
    return CheckLora(lora).ToString();
  };
  const auto alpha = [](std::string_view text) {
    const auto entries = ParseAlphaPattern(text, "alpha_pattern");
    if (!entries) return entries.error().ToString();
    LoraConfig lora;
    lora.alpha_pattern = *entries;
    return CheckLora(lora).ToString();
  };
  EXPECT_THAT(rank("[1]"), HasSubstr("rank_pattern is [1]: it must be an object"));
  EXPECT_THAT(rank(R"({"q_proj": 0})"), HasSubstr("rank 0 for \"q_proj\": choose 1 to 4096"));
  EXPECT_THAT(rank(R"({"q_proj": -3})"), HasSubstr("rank -3"));
  EXPECT_THAT(rank(R"({"q_proj": 4097})"), HasSubstr("choose 1 to 4096"));
  EXPECT_THAT(rank(R"({"q_proj": 18446744073709551615})"), HasSubstr("choose 1 to 4096"));
  EXPECT_THAT(rank(R"({"q_proj": 1.5})"), HasSubstr("it must be a whole number"));
  EXPECT_THAT(rank(R"({"q_proj": "8"})"), HasSubstr("it must be a whole number"));
  EXPECT_THAT(rank(R"({"(q_proj": 8})"), HasSubstr("pattern \"(q_proj\""));
  EXPECT_THAT(rank(R"({"q": 8, "q": 9})"), HasSubstr("appears twice"));
  EXPECT_THAT(rank("{"), HasSubstr("malformed JSON"));
  EXPECT_THAT(alpha(R"({"q_proj": 0})"), HasSubstr("alpha 0 for \"q_proj\""));
  EXPECT_THAT(alpha(R"({"q_proj": null})"), HasSubstr("it must be a number"));
  EXPECT_THAT(alpha(R"({"q_proj": 1e999})"), HasSubstr("alpha_pattern"));
}

}  // namespace
}  // namespace tidegate::model
