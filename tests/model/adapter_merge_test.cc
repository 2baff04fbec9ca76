// A merged folder computes what base and adapter compute together.
#include "model/adapter_merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "golden_model.h"
#include "model/transformer.h"
#include "temp_model.h"

namespace tidegate::model {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Merge : public testing::TestWithParam<const char*> {
 protected:
  // Of a base, with the adapter of a PEFT folder where there is one.
  double Loss(const fs::path& dir, const fs::path& adapter_dir = {}) {
    const auto base = Must(Base::Load(dir, {}));
    Adapter adapter = Adapter::CreateZero(base->config(), LoraConfig());
    if (!adapter_dir.empty()) adapter = Must(LoadPeft(adapter_dir, base->config()));
    const auto engine = Must(Engine::Create(base, adapter.lora()));
    engine->SetParameters(adapter.parameters());
    const auto trace =
        Must(tensor::SafetensorsFile::Open(GoldenDir(GetParam()) / "trace.safetensors"));
    const auto sum = Must(engine->Evaluate(Pack(Sequences(trace, 0))));
    return sum.loss / static_cast<double>(sum.targets);
  }
  const TempDir root_;
};

// transformers + PEFT's loss of the adapter, which the merged base has without one.
TEST_P(Merge, HasTheLossOfBaseAndAdapter) {
  const fs::path base = GoldenDir(GetParam()), out = root_.path() / "merged";
  const MergeReport report = Must(MergeAdapter(base, base / "adapter_in", out, {}));
  const ModelConfig config = Must(LoadHfConfig(out / "config.json"));
  EXPECT_EQ(report.weights, config.num_parameters());
  EXPECT_EQ(report.merged, config.num_layers * kModulesPerLayer);
  const auto trace = Must(tensor::SafetensorsFile::Open(base / "trace.safetensors"));
  const double expected = static_cast<double>(Floats(trace, "loss").at(0));
  EXPECT_NEAR(Loss(out) / expected, 1, 1e-6);
  EXPECT_EQ(Must(ReadFile(out / "tokenizer.json", 1 << 20)),
            Must(ReadFile(base / "tokenizer.json", 1 << 20)));
  const fs::path half = root_.path() / "half";
  (void)Must(MergeAdapter(base, base / "adapter_in", half, {.dtype = tensor::DType::kBF16}));
  EXPECT_EQ(ReadJson(half / "config.json")["torch_dtype"], "bfloat16");
  EXPECT_NEAR(Loss(half) / expected, 1, 2e-3);
}

// The golden adapter has alpha 8 and rank 4. With alpha 4 and rank-stabilised it has the same
// scale, 4 / sqrt(4); whoever overlooks the key gives it half of that.
TEST_P(Merge, ARankStabilisedAdapterHasItsScale) {
  const fs::path base = GoldenDir(GetParam()), folder = root_.path() / "adapter";
  fs::copy(base / "adapter_in", folder);
  nlohmann::json config = ReadJson(folder / "adapter_config.json");
  const auto rewrite = [&](bool rslora) {
    config["lora_alpha"] = 4;
    config["use_rslora"] = rslora;
    WriteText(folder / "adapter_config.json", config.dump());
  };
  const auto trace = Must(tensor::SafetensorsFile::Open(base / "trace.safetensors"));
  const double expected = static_cast<double>(Floats(trace, "loss").at(0));
  rewrite(false);
  EXPECT_GT(std::fabs(Loss(base, folder) / expected - 1), 1e-4) << "the scale makes no difference";
  rewrite(true);
  EXPECT_NEAR(Loss(base, folder) / expected, 1, 1e-6);
  (void)Must(MergeAdapter(base, folder, root_.path() / "merged", {}));
  EXPECT_NEAR(Loss(root_.path() / "merged") / expected, 1, 1e-6);
}

TEST_P(Merge, NothingThatIsThereIsReplacedAndNothingHalfIsLeft) {
  const fs::path base = GoldenDir(GetParam()), out = root_.path() / "merged";
  fs::create_directories(out);
  WriteText(out / "mine.txt", "mine");
  EXPECT_EQ(MergeAdapter(base, base / "adapter_in", out, {}).error().code(), Code::kAlreadyExists);
  fs::remove_all(out);
  EXPECT_FALSE(MergeAdapter(base, root_.path() / "no adapter", out, {}));
  EXPECT_TRUE(fs::is_empty(root_.path()));
}

INSTANTIATE_TEST_SUITE_P(Models, Merge,
                         testing::Values("tiny_llama", "tiny_llama_untied", "tiny_mistral",
                                         "tiny_qwen2", "tiny_qwen3"),
                         [](const auto& param) { return std::string(param.param); });

TEST(MergeRefuses, AnAdapterOfAnotherBase) {
  const TempDir root;
  const auto merged = MergeAdapter(GoldenDir("tiny_llama"), GoldenDir("tiny_qwen3") / "adapter_in",
                                   root.path() / "out", {});
  EXPECT_THAT(merged.error().message(), HasSubstr("target_modules"));
  EXPECT_FALSE(fs::exists(root.path() / "out"));
}

}  // namespace
}  // namespace tidegate::model
