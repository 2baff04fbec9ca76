// SmolLM2-135M-Instruct against transformers and PEFT, where the model is at hand: the tolerances
// are argued in tests/golden/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "golden_model.h"
#include "model/base_import.h"
#include "model/chat_template.h"
#include "model/generate.h"
#include "model/tokenizer.h"
#include "model/transformer.h"
#include "smollm2_golden.h"
#include "temp_model.h"

namespace tidegate::model {
namespace {

namespace fs = std::filesystem;
using kernels::DType;
using tensor::SafetensorsFile;

class SmolLm2 : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (GetParam() == DType::kBF16 && !HasBf16()) {
      GTEST_SKIP() << "this CPU has no bf16 instructions (AVX512-bf16)";
    }
    const fs::path gguf = SmolLm2File();
    if (!fs::exists(gguf)) {
      GTEST_SKIP() << "no " << gguf << "; scripts/fetch_smollm2.sh fetches it";
    }
    const fs::path dir = imported_.path() / "model";
    (void)Must(ImportGguf(gguf, dir, {.dtype = tensor::DType::kF32}));
    base_ = Must(Base::Load(dir, {.dtype = GetParam()}));
    adapter_ = std::make_unique<Adapter>(SmolLm2Adapter(base_->config()));
    engine_ = Must(Engine::Create(base_, adapter_->lora()));
    engine_->SetParameters(adapter_->parameters());
  }
  bool f32() const { return GetParam() == DType::kF32; }
  // Of f32 the f64 run, of bf16 the same in bf16.
  std::vector<float> Expected(const std::string& name) const {
    return Floats(trace_, (f32() ? "f64." : "bf16.") + name);
  }
  void ExpectLosses();
  void ExpectGradients(std::span<const float> gradients);
  void ExpectLogits();
  void ExpectBatchesBeyondEight();

  const SafetensorsFile trace_ =
      Must(SafetensorsFile::Open(GoldenDir("smollm2") / "trace.safetensors"));
  const TempDir imported_;
  std::shared_ptr<const Base> base_;
  std::unique_ptr<Adapter> adapter_;
  std::unique_ptr<Engine> engine_;
};

void SmolLm2::ExpectLosses() {
  const auto sequences = Sequences(trace_, 0, true);
  const auto losses = Must(engine_->TokenLosses(Pack(sequences)));
  const auto expected = Expected("per_token_loss");
  size_t target = 0, place = 0;
  double worst = 0;
  for (const auto& sequence : sequences) {
    for (size_t i = 0; i < sequence.ids.size(); ++i, ++place) {
      if (i == 0) continue;
      const double off = losses.at(target++) - static_cast<double>(expected.at(place));
      worst = std::max(worst, std::fabs(off));
    }
  }
  EXPECT_EQ(place, expected.size());
  EXPECT_LT(worst, f32() ? 1e-4 : 0.8);
  RecordProperty("worst_token_loss", std::to_string(worst));
}

void SmolLm2::ExpectGradients(std::span<const float> gradients) {
  const auto heads = Expected("grad.head");
  const auto sizes = Expected("grad.l2");
  const auto conditions = Floats(trace_, f32() ? "f32.grad.rel_l2" : "bf16.grad.rel_l2");
  std::vector<float> own_heads;
  double whole = 0, expected_whole = 0;
  for (size_t t = 0; t < adapter_->tensors().size(); ++t) {
    const AdapterTensor& tensor = adapter_->tensors()[t];
    const auto part = Part(gradients, tensor);
    own_heads.insert(own_heads.end(), part.begin(), part.begin() + 8);
    double squares = 0;
    for (const float g : part) squares += static_cast<double>(g) * static_cast<double>(g);
    const double size = static_cast<double>(sizes.at(t));
    const double allowed = 3 * static_cast<double>(conditions.at(t)) + (f32() ? 1e-4 : 1e-2);
    EXPECT_NEAR(std::sqrt(squares) / size, 1, allowed) << tensor.name;
    whole += squares;
    expected_whole += size * size;
  }
  EXPECT_NEAR(std::sqrt(whole / expected_whole), 1, f32() ? 1e-4 : 2e-2);
  const double distance = RelativeL2(own_heads, heads);
  EXPECT_LT(distance, f32() ? 1e-4 : 0.12);
  RecordProperty("gradient_heads_distance", std::to_string(distance));
}

void SmolLm2::ExpectLogits() {
  const auto sequences = Sequences(trace_, 0);
  const auto places = Ints(trace_, "top5.positions");
  const auto ids = Ints(trace_, f32() ? "f64.top5.ids" : "bf16.top5.ids");
  const auto expected = Expected("top5.logits");
  const auto starts = Ints(trace_, "batch0.segment_starts");
  for (size_t p = 0; p < places.size(); ++p) {
    const size_t segment = places[p] < starts.at(1) ? 0 : 1;
    const auto length = static_cast<size_t>(places[p] - starts.at(segment) + 1);
    KvCache cache = engine_->NewCache();
    const std::span<const int32_t> prompt(sequences[segment].ids.data(), length);
    (void)Must(engine_->Append(cache, prompt.first(length - 1)));
    const auto logits = Must(engine_->Append(cache, prompt.subspan(length - 1)));
    EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), ids.at(5 * p));
    for (size_t i = 5 * p; i < 5 * p + 5; ++i) {
      EXPECT_NEAR(static_cast<double>(logits[static_cast<size_t>(ids.at(i))]),
                  static_cast<double>(expected.at(i)), f32() ? 3e-4 : 1.0)
          << "place " << places[p];
    }
  }
}

// How far a batch's logits are from those alone: the bounds that docs/cli.md states.
void SmolLm2::ExpectBatchesBeyondEight() {
  const auto sequences = Sequences(trace_, 0);
  std::vector<KvCache> together;
  std::vector<KvCache*> caches;
  std::vector<int32_t> ids;
  std::vector<std::vector<float>> alone;
  for (size_t i = 0; i < 12; ++i) {
    const std::span<const int32_t> all(sequences[i % sequences.size()].ids);
    KvCache own = engine_->NewCache();
    together.push_back(engine_->NewCache());
    for (KvCache* cache : {&own, &together.back()}) {
      (void)Must(engine_->Append(*cache, all.first(4 + i)));
    }
    ids.push_back(all[4 + i]);
    const auto logits = Must(engine_->Append(own, {&ids.back(), 1}));
    alone.emplace_back(logits.begin(), logits.end());
  }
  for (KvCache& cache : together) caches.push_back(&cache);
  const auto logits = Must(engine_->Step(caches, ids));
  double worst = 0;
  for (size_t i = 0; i < alone.size(); ++i) {
    for (size_t j = 0; j < alone[i].size(); ++j) {
      worst = std::max(worst, std::fabs(static_cast<double>(logits[i * alone[i].size() + j]) -
                                        static_cast<double>(alone[i][j])));
    }
  }
  RecordProperty("worst_logit_of_a_batch", std::to_string(worst));
  EXPECT_LT(worst, f32() ? 3e-4 : 1.5);
}

TEST_P(SmolLm2, LossesGradientsAndLogits) {
  const auto sum = Must(engine_->ForwardBackward(Pack(Sequences(trace_, 0)), 0, 0));
  const double targets = static_cast<double>(sum.targets);
  EXPECT_NEAR(sum.loss / targets / static_cast<double>(Expected("loss").at(0)), 1,
              f32() ? 1e-5 : 1e-3);
  std::vector<float> gradients(adapter_->parameters().size());
  engine_->TakeGradients(1.0 / targets, gradients);
  ExpectGradients(gradients);
  ExpectLosses();
  ExpectLogits();
  ExpectBatchesBeyondEight();
}

// The whole way of a user's question: GGUF, tokenizer, template, cache, a batch of three.
TEST(SmolLm2Answers, AreSensible) {
  const fs::path gguf = SmolLm2File();
  if (!fs::exists(gguf)) GTEST_SKIP() << "no " << gguf << "; scripts/fetch_smollm2.sh fetches it";
  const TempDir imported;
  const fs::path dir = imported.path() / "model";
  (void)Must(ImportGguf(gguf, dir, {.dtype = tensor::DType::kBF16}));
  const auto base =
      Must(Base::Load(dir, {.dtype = HasBf16() ? DType::kBF16 : DType::kF32, .threads = 2}));
  const auto engine = Must(Engine::Create(base, LoraConfig()));
  const Tokenizer tokenizer = Must(Tokenizer::Load(dir / "tokenizer.json"));
  RenderOptions render;
  const auto chat = Must(LoadChatTemplate(dir, render));
  ASSERT_TRUE(chat.has_value());
  render.add_generation_prompt = true;
  const std::pair<const char*, const char*> asked[] = {
      {"What is the capital of France?", "Paris"},
      {"What is 2 plus 2?", "4"},
      {"What is the chemical symbol for water?", "H2O"}};
  std::vector<std::vector<int32_t>> prompts;
  for (const auto& [question, ignored] : asked) {
    const Rendered rendered =
        Must(chat->Render(std::vector<ChatMessage>{{"user", question}}, render));
    prompts.push_back(Must(tokenizer.Encode(rendered.text)).ids);
  }
  const auto end = tokenizer.TokenId("<|im_end|>");
  ASSERT_TRUE(end.has_value());
  std::vector<std::string> answers(prompts.size());
  const Status status =
      GenerateBatch(*engine, prompts, {.max_new_tokens = 40, .stop_ids = {*end}}, 3,
                    {.on_token = {}, .on_answer = [&](size_t index, const Generation& generation) {
                       answers[index] = Must(tokenizer.Decode(generation.ids));
                       EXPECT_EQ(generation.reason, StopReason::kStopId) << answers[index];
                       return true;
                     }});
  ASSERT_TRUE(status.ok()) << status.ToString();
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_NE(answers[i].find(asked[i].second), std::string::npos) << answers[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SmolLm2, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& param) {
                           return param.param == DType::kF32 ? "f32" : "bf16";
                         });

}  // namespace
}  // namespace tidegate::model
