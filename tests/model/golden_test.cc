// Losses, logits and adapter gradients against transformers and PEFT: tests/golden/README.md says
// how the numbers were made and what f32 and bf16 cost. The ten training steps are in tests/train.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "golden_model.h"
#include "model/transformer.h"

namespace tidegate::model {
namespace {

namespace fs = std::filesystem;
using kernels::DType;
using tensor::SafetensorsFile;

// Allowed distances from the trace; losses and logits absolute, the others relative.
struct Bounds {
  double loss, token, logit, gradient;
};
constexpr Bounds kF32Bounds = {1e-6, 1e-4, 1e-4, 1e-4};
// Twice to three times of what transformers itself loses in bf16.
constexpr Bounds kBf16Bounds = {1e-3, 0.2, 0.3, 0.08};

struct Case {
  const char* folder;
  DType dtype;
  const char* name;
  const Bounds& bounds() const { return dtype == DType::kF32 ? kF32Bounds : kBf16Bounds; }
};

class Golden : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    if (c.dtype == DType::kBF16 && !HasBf16()) {
      GTEST_SKIP() << "this CPU has no bf16 instructions (AVX512-bf16)";
    }
    const fs::path dir = GoldenDir(c.folder);
    trace_ =
        std::make_unique<SafetensorsFile>(Must(SafetensorsFile::Open(dir / "trace.safetensors")));
    base_ = Must(Base::Load(dir, {.dtype = c.dtype}));
    adapter_ = std::make_unique<Adapter>(Must(LoadPeft(dir / "adapter_in", base_->config())));
    engine_ = Must(Engine::Create(base_, adapter_->lora()));
    engine_->SetParameters(adapter_->parameters());
  }
  double Expected(const std::string& name) const {
    return static_cast<double>(Floats(*trace_, name).at(0));
  }
  // The loss of every token of row 0, masked or not.
  void ExpectTokenLosses(const std::string& name) {
    const auto sequences = Sequences(*trace_, 0, true);
    const auto losses = Must(engine_->TokenLosses(Pack(sequences)));
    const auto expected = Floats(*trace_, name);
    size_t target = 0, place = 0;
    for (const auto& sequence : sequences) {
      for (size_t i = 0; i < sequence.ids.size(); ++i, ++place) {
        if (i == 0) continue;  // nothing predicts a first token
        EXPECT_NEAR(losses.at(target++), static_cast<double>(expected.at(place)),
                    GetParam().bounds().token)
            << name << " at " << place;
      }
    }
    EXPECT_EQ(target, losses.size());
    EXPECT_EQ(place, expected.size());
  }

  std::unique_ptr<SafetensorsFile> trace_;
  std::shared_ptr<const Base> base_;
  std::unique_ptr<Adapter> adapter_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(Golden, LossesWithAndWithoutTheAdapter) {
  const auto batch = Pack(Sequences(*trace_, 0));
  const auto with = Must(engine_->Evaluate(batch));
  EXPECT_EQ(with.targets, batch.num_targets);
  const double tolerance = GetParam().bounds().loss;
  EXPECT_NEAR(with.loss / static_cast<double>(with.targets) / Expected("loss"), 1, tolerance);
  ExpectTokenLosses("per_token_loss");
  engine_->SetParameters(std::vector<float>(adapter_->parameters().size(), 0.0f));
  const auto without = Must(engine_->Evaluate(batch));
  EXPECT_NEAR(without.loss / static_cast<double>(with.targets) / Expected("base.loss"), 1,
              tolerance);
  ExpectTokenLosses("base.per_token_loss");
}

// The last four rows of each segment, of which the first comes out of the prompt's pass and three
// out of the cache.
TEST_P(Golden, LogitsTokenByToken) {
  const auto sequences = Sequences(*trace_, 0);
  const size_t vocab = static_cast<size_t>(base_->config().vocab_size);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const auto expected = Floats(*trace_, fmt::format("logits.{}", s));
    const std::span<const int32_t> ids = sequences[s].ids;
    KvCache cache = engine_->NewCache();
    for (size_t row = 0; row < 4; ++row) {
      const size_t end = ids.size() - 3 + row;
      const size_t begin = row == 0 ? 0 : end - 1;
      const auto logits = Must(engine_->Append(cache, ids.subspan(begin, end - begin)));
      ASSERT_EQ(logits.size(), vocab);
      double worst = 0;
      for (size_t i = 0; i < vocab; ++i) {
        worst = std::max(worst, std::fabs(static_cast<double>(logits[i]) -
                                          static_cast<double>(expected.at(row * vocab + i))));
      }
      EXPECT_LT(worst, GetParam().bounds().logit) << "segment " << s << " row " << row;
    }
  }
}

TEST_P(Golden, EveryAdapterGradient) {
  const auto sum = Must(engine_->ForwardBackward(Pack(Sequences(*trace_, 0)), 0, 0));
  EXPECT_NEAR(sum.loss / static_cast<double>(sum.targets) / Expected("loss"), 1,
              GetParam().bounds().loss);
  std::vector<float> gradients(adapter_->parameters().size());
  engine_->TakeGradients(1.0 / static_cast<double>(sum.targets), gradients);
  for (const AdapterTensor& tensor : adapter_->tensors()) {
    EXPECT_LT(RelativeL2(Part(gradients, tensor), Floats(*trace_, "grad." + tensor.name)),
              GetParam().bounds().gradient)
        << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         testing::Values(Case{"tiny_llama", DType::kF32, "tied_f32"},
                                         Case{"tiny_llama_untied", DType::kF32, "untied_f32"},
                                         Case{"tiny_mistral", DType::kF32, "mistral_f32"},
                                         Case{"tiny_qwen2", DType::kF32, "qwen2_f32"},
                                         Case{"tiny_qwen3", DType::kF32, "qwen3_f32"},
                                         Case{"tiny_llama", DType::kBF16, "tied_bf16"},
                                         Case{"tiny_llama_untied", DType::kBF16, "untied_bf16"},
                                         Case{"tiny_mistral", DType::kBF16, "mistral_bf16"},
                                         Case{"tiny_qwen2", DType::kBF16, "qwen2_bf16"},
                                         Case{"tiny_qwen3", DType::kBF16, "qwen3_bf16"}),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace tidegate::model
