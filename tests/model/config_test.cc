// config.json of the families: what decides the computation is read, what is not built is refused.
#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "golden_model.h"
#include "temp_model.h"

namespace tidegate::model {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json GoldenConfig(const std::string& name) { return ReadJson(GoldenDir(name) / "config.json"); }

std::string Refusal(const json& config) {
  const auto parsed = ParseHfConfig(config.dump(), "c.json");
  return parsed ? "accepted" : parsed.error().ToString();
}

TEST(Config, EveryFamilyIsReadAndWrittenBack) {
  for (const char* name :
       {"tiny_llama", "tiny_llama_untied", "tiny_mistral", "tiny_qwen2", "tiny_qwen3"}) {
    SCOPED_TRACE(name);
    const json golden = GoldenConfig(name);
    const ModelConfig config = Must(ParseHfConfig(golden.dump(), name));
    const std::string written = ToHfJson(config);
    EXPECT_EQ(ToHfJson(Must(ParseHfConfig(written, name))), written);
    EXPECT_EQ(json::parse(written)["architectures"], golden["architectures"]);
    EXPECT_EQ(config.head_dim, golden.value("head_dim", int64_t{16}));
  }
}

TEST(Config, BiasesAndNormsFollowTheFamily) {
  const ModelConfig qwen2 = Must(ParseHfConfig(GoldenConfig("tiny_qwen2").dump(), "c"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias || qwen2.mlp_bias || qwen2.qk_norm);
  const ModelConfig qwen3 = Must(ParseHfConfig(GoldenConfig("tiny_qwen3").dump(), "c"));
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias || qwen3.o_bias || qwen3.mlp_bias);
  json llama = GoldenConfig("tiny_llama");
  llama["attention_bias"] = llama["mlp_bias"] = true;
  const ModelConfig biased = Must(ParseHfConfig(llama.dump(), "c"));
  EXPECT_TRUE(biased.qkv_bias && biased.o_bias && biased.mlp_bias);
}

// transformers' default of the family; hidden_size / heads would be 16.
TEST(Config, Qwen3WithoutHeadDimHas128) {
  json config = GoldenConfig("tiny_qwen3");
  config.erase("head_dim");
  EXPECT_EQ(Must(ParseHfConfig(config.dump(), "c")).head_dim, 128);
}

// As Qwen2.5's cards write it for long texts (the keys of transformers 4).
TEST(Config, YarnIsReadCompletedCheckedAndWrittenBack) {
  json config = GoldenConfig("tiny_qwen2");
  config.erase("rope_parameters");
  config["rope_theta"] = 1e6;
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
  const ModelConfig read = Must(ParseHfConfig(config.dump(), "c"));
  EXPECT_EQ(read.rope.type, RopeType::kYarn);
  EXPECT_EQ(read.rope.original_max_positions, read.max_positions);
  EXPECT_NEAR(read.rope.attention_factor, 1.138629436111989, 1e-12);
  const std::string written = ToHfJson(read);
  EXPECT_EQ(ToHfJson(Must(ParseHfConfig(written, "c"))), written);

  config["rope_scaling"]["mscale"] = 1.0;
  config["rope_scaling"]["mscale_all_dim"] = 0.5;
  EXPECT_NEAR(Must(ParseHfConfig(config.dump(), "c")).rope.attention_factor, 1.0648216253695715,
              1e-12);
  config["rope_scaling"]["attention_factor"] = 2.0;
  EXPECT_EQ(Must(ParseHfConfig(config.dump(), "c")).rope.attention_factor, 2.0);
  config["rope_scaling"]["beta_slow"] = 64.0;
  EXPECT_THAT(Refusal(config), HasSubstr("beta_fast 32 must be above beta_slow 64"));
  config["rope_scaling"].erase("beta_slow");
  config["rope_scaling"]["attention_factor"] = 0.0;
  EXPECT_THAT(Refusal(config), HasSubstr("attention_factor is 0"));
}

TEST(Config, SlidingWindowsAreRefusedByTheKeyThatAsksForOne) {
  json mistral = GoldenConfig("tiny_mistral");
  mistral["sliding_window"] = 4096;
  EXPECT_THAT(Refusal(mistral), HasSubstr("sliding_window asks for"));
  json qwen2 = GoldenConfig("tiny_qwen2");
  qwen2["use_sliding_window"] = true;
  EXPECT_THAT(Refusal(qwen2), HasSubstr("use_sliding_window asks for"));
  json qwen3 = GoldenConfig("tiny_qwen3");
  qwen3["layer_types"][1] = "sliding_attention";
  EXPECT_THAT(Refusal(qwen3), HasSubstr("layer_types asks for"));
}

TEST(Config, AnotherArchitectureIsRefusedWithThoseThatAreBuilt) {
  json config = GoldenConfig("tiny_llama");
  config["model_type"] = "gemma2";
  EXPECT_THAT(Refusal(config), HasSubstr("\"gemma2\" is not supported; llama, mistral, qwen2 and "
                                         "qwen3 are"));
}

}  // namespace
}  // namespace tidegate::model
