#include "model/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "golden_model.h"
#include "temp_model.h"

namespace tidegate::model {
namespace {

using kernels::DType;
using testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();

// A copy, since the engine's stand until its next call only.
std::vector<float> LogitsAfter(Engine& engine, KvCache& cache, std::span<const int32_t> ids) {
  const std::span<float> logits = Must(engine.Append(cache, ids));
  return {logits.begin(), logits.end()};
}
std::vector<float> LogitsAfter(Engine& engine, std::span<const int32_t> ids) {
  KvCache cache = engine.NewCache();
  return LogitsAfter(engine, cache, ids);
}

Result<int32_t> ChooseToken(std::vector<float> logits, const GenerateOptions& options,
                            uint64_t index, const std::vector<int32_t>& seen = {}) {
  return TokenChooser(options).Choose(logits, seen, index);
}

class Generating : public testing::Test {
 protected:
  explicit Generating(const ComputeOptions& options = {}) {
    base_ = Must(Base::Load(GoldenDir("tiny_llama"), options));
    const Adapter adapter = Must(LoadPeft(GoldenDir("tiny_llama") / "adapter_in", base_->config()));
    engine_ = Must(Engine::Create(base_, adapter.lora()));
    engine_->SetParameters(adapter.parameters());
  }
  Generation Run(const GenerateOptions& options, const TokenCallback& callback = {}) {
    KvCache cache = engine_->NewCache();
    return Must(Generate(*engine_, cache, prompt_, options, callback));
  }
  std::string Refusal(const GenerateOptions& options, std::vector<int32_t> prompt) {
    KvCache cache = engine_->NewCache();
    const auto result = Generate(*engine_, cache, prompt, options, {});
    return result ? "accepted" : result.error().ToString();
  }

  std::shared_ptr<const Base> base_;
  std::unique_ptr<Engine> engine_;
  const std::vector<int32_t> prompt_ = {1, 70, 84, 99, 310, 12};
};

// The loss of the last token of a sequence, by the training pass, is what the logits before it say.
double LossOfLast(Engine& engine, std::span<const int32_t> ids) {
  tokens::TokenSequence sequence{{ids.begin(), ids.end()}, std::vector<uint8_t>(ids.size(), 0)};
  sequence.loss_mask.back() = 1;
  return Must(engine.Evaluate(Pack({sequence}))).loss;
}

double LossOf(std::span<const float> logits, int32_t id) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  return std::log(sum) - static_cast<double>(logits[static_cast<size_t>(id)]);
}

class TokenByToken : public Generating, public testing::WithParamInterface<ComputeOptions> {
 protected:
  TokenByToken() : Generating(GetParam()) {}
};

// 40 tokens one at a time, in pieces and at once.
TEST_P(TokenByToken, EqualsTheWholePass) {
  const double tolerance = GetParam().dtype == DType::kF64 ? 1e-6 : 2e-5;
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 40; ++i) ids.push_back(3 + (i * 71) % 320);
  std::vector<std::vector<float>> singly;
  KvCache cache = engine_->NewCache();
  for (const int32_t& id : ids) singly.push_back(LogitsAfter(*engine_, cache, {&id, 1}));
  for (const size_t n : {1u, 7u, 39u}) {
    EXPECT_NEAR(LossOf(singly[n - 1], ids[n]),
                LossOfLast(*engine_, std::span<const int32_t>(ids).first(n + 1)), tolerance)
        << n;
  }
  const auto whole = LogitsAfter(*engine_, ids);
  cache.Truncate(11);  // what was computed singly
  const auto pieces = LogitsAfter(*engine_, cache, std::span<const int32_t>(ids).subspan(11));
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(static_cast<double>(whole[i]), static_cast<double>(singly.back()[i]), tolerance);
    EXPECT_NEAR(static_cast<double>(whole[i]), static_cast<double>(pieces[i]), tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Types, TokenByToken,
    testing::Values(ComputeOptions{.backend = kernels::Backend::kRef, .dtype = DType::kF64},
                    ComputeOptions{.threads = 1}, ComputeOptions{.threads = 2}),
    [](const auto& param) {
      return param.param.dtype == DType::kF64 ? std::string("f64")
                                              : fmt::format("f32_threads{}", param.param.threads);
    });

// 700 tokens: the cache grows twice and keeps what it has.
TEST(Cache, GrowsWithTheSequence) {
  const TempDir dir;
  nlohmann::json config = ReadJson(GoldenDir("tiny_llama") / "config.json");
  config["max_position_embeddings"] = 700;
  WriteText(dir.path() / "config.json", config.dump());
  std::filesystem::copy(GoldenDir("tiny_llama") / "model.safetensors", dir.path());
  const auto base = Must(Base::Load(dir.path(), {}));
  const auto engine = Must(Engine::Create(base, LoraConfig()));
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 700; ++i) ids.push_back(3 + (i * 71) % 320);
  const std::span<const int32_t> all = ids;
  const auto whole = LogitsAfter(*engine, all);
  KvCache cache = engine->NewCache();
  std::vector<float> last;
  for (size_t at = 0; at < ids.size(); at += 100) {
    last = LogitsAfter(*engine, cache, all.subspan(at, 100));
  }
  EXPECT_EQ(cache.length(), 700);
  EXPECT_EQ(cache.bytes(), KvCache::BytesFor(base->config(), DType::kF32, 700));
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(static_cast<double>(whole[i]), static_cast<double>(last[i]), 2e-5);
  }
}

TEST_F(Generating, GreedyTakesTheLikeliestEachTime) {
  const auto out = Run({.max_new_tokens = 20});
  EXPECT_EQ(out.reason, StopReason::kMaxNewTokens);
  ASSERT_EQ(out.ids.size(), 20u);
  std::vector<int32_t> ids = prompt_;
  for (const int32_t id : out.ids) {
    const auto logits = LogitsAfter(*engine_, ids);
    EXPECT_EQ(id, std::max_element(logits.begin(), logits.end()) - logits.begin());
    ids.push_back(id);
  }
  EXPECT_EQ(Run({.max_new_tokens = 20}).ids, out.ids);
}

TEST_F(Generating, TheSeedDecidesSamples) {
  GenerateOptions options{.max_new_tokens = 30, .temperature = 1.0, .top_p = 0.95, .seed = 4};
  const auto first = Run(options);
  EXPECT_EQ(Run(options).ids, first.ids);
  options.seed = 5;
  EXPECT_NE(Run(options).ids, first.ids);
  options.top_p = 1e-9;  // the likeliest alone
  EXPECT_EQ(Run(options).ids, Run({.max_new_tokens = 30}).ids);
}

TEST_F(Generating, EndsWhereItShould) {
  const auto all = Run({.max_new_tokens = 12}).ids;
  const auto fourth = std::find(all.begin(), all.end(), all[3]) - all.begin();
  GenerateOptions options{.max_new_tokens = 12, .stop_ids = {-1, all[3]}};
  const auto stopped = Run(options);
  EXPECT_EQ(stopped.reason, StopReason::kStopId);
  EXPECT_EQ(stopped.ids, std::vector<int32_t>(all.begin(), all.begin() + fourth));

  std::vector<int32_t> seen;
  const auto called = Run({.max_new_tokens = 12}, [&](int32_t id) {
    seen.push_back(id);
    return seen.size() < 5;
  });
  EXPECT_EQ(called.reason, StopReason::kCallback);
  EXPECT_EQ(called.ids, seen);
  EXPECT_EQ(seen, std::vector<int32_t>(all.begin(), all.begin() + 5));
}

// 256 positions: the last token chosen is not fed any more.
TEST_F(Generating, EndsAtTheLastPosition) {
  const std::vector<int32_t> prompt(250, 9);
  KvCache cache = engine_->NewCache();
  const auto out = Must(Generate(*engine_, cache, prompt, {.max_new_tokens = 100}, {}));
  EXPECT_EQ(out.reason, StopReason::kMaxPositions);
  EXPECT_EQ(out.ids.size(), 7u);
  EXPECT_THAT(Refusal({}, std::vector<int32_t>(257, 9)), HasSubstr("257 tokens"));
  cache.Truncate(0);
  (void)Must(engine_->Append(cache, std::vector<int32_t>(256, 9)));
  const int32_t id = 9;
  EXPECT_EQ(engine_->Append(cache, {&id, 1}).error().code(), Code::kFailedPrecondition);
  KvCache* const caches[] = {&cache};
  EXPECT_EQ(engine_->Step(caches, {&id, 1}).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(cache.length(), 256);
}

TEST_F(Generating, RefusesBadInputByName) {
  EXPECT_THAT(Refusal({.max_new_tokens = 0}, prompt_), HasSubstr("max_new_tokens is 0"));
  EXPECT_THAT(Refusal({.temperature = -0.5}, prompt_), HasSubstr("temperature is -0.5"));
  EXPECT_THAT(Refusal({.temperature = std::nan("")}, prompt_), HasSubstr("temperature is nan"));
  EXPECT_THAT(Refusal({.top_p = 0}, prompt_), HasSubstr("top_p is 0"));
  EXPECT_THAT(Refusal({.top_p = 1.5}, prompt_), HasSubstr("top_p is 1.5"));
  EXPECT_THAT(Refusal({.top_k = -1}, prompt_), HasSubstr("top_k is -1"));
  EXPECT_THAT(Refusal({.repetition_penalty = 0}, prompt_), HasSubstr("repetition_penalty is 0"));
  EXPECT_THAT(Refusal({.vocab_limit = -1}, prompt_), HasSubstr("vocab_limit is -1"));
  EXPECT_THAT(Refusal({}, {}), HasSubstr("no token to append"));
  EXPECT_THAT(Refusal({}, {1, 323}), HasSubstr("token 1 has id 323"));
}

// What a batch must give: each prompt's answer alone.
class Batches : public testing::TestWithParam<ComputeOptions> {
 protected:
  Batches() {
    for (int32_t i = 0; i < 11; ++i) {
      std::vector<int32_t> prompt;
      for (int32_t j = 0; j <= (i * 7) % 40; ++j) prompt.push_back(3 + (i * 31 + j * 71) % 320);
      prompts_.push_back(prompt);
    }
  }
  void SetUp() override {
    if (GetParam().dtype == DType::kBF16 && !HasBf16()) {
      GTEST_SKIP() << "this CPU has no bf16 instructions (AVX512-bf16)";
    }
    const auto base = Must(Base::Load(GoldenDir("tiny_llama"), GetParam()));
    const Adapter adapter = Must(LoadPeft(GoldenDir("tiny_llama") / "adapter_in", base->config()));
    engine_ = Must(Engine::Create(base, adapter.lora()));
    engine_->SetParameters(adapter.parameters());
  }
  std::vector<Generation> Batched(const GenerateOptions& options, int64_t batch_size) {
    std::vector<Generation> answers(prompts_.size());
    std::vector<std::vector<int32_t>> told(prompts_.size());
    const BatchCallbacks callbacks = {.on_token =
                                          [&](size_t index, int32_t id) {
                                            told[index].push_back(id);
                                            return true;
                                          },
                                      .on_answer =
                                          [&](size_t index, const Generation& generation) {
                                            EXPECT_TRUE(answers[index].ids.empty());
                                            answers[index] = generation;
                                            return true;
                                          }};
    const Status status = GenerateBatch(*engine_, prompts_, options, batch_size, callbacks);
    EXPECT_TRUE(status.ok()) << status.ToString();
    for (size_t i = 0; i < told.size(); ++i) EXPECT_EQ(told[i], answers[i].ids);
    return answers;
  }

  std::unique_ptr<Engine> engine_;
  std::vector<std::vector<int32_t>> prompts_;
};

TEST_P(Batches, AnswerEachPromptAsAlone) {
  // Greedy ids are the same for any number; sampled ones hang on every bit of the logits.
  const GenerateOptions greedy{.max_new_tokens = 12};
  const GenerateOptions sampled{
      .max_new_tokens = 12, .temperature = 1.5, .repetition_penalty = 1.1, .seed = 3};
  for (const GenerateOptions& options : {greedy, sampled}) {
    for (const int64_t batch_size : {1, 3, 8, 11}) {
      if (batch_size > 8 && options.temperature > 0) continue;
      const auto answers = Batched(options, batch_size);
      for (size_t i = 0; i < prompts_.size(); ++i) {
        KvCache cache = engine_->NewCache();
        const auto alone = Must(Generate(*engine_, cache, prompts_[i], options, {}));
        EXPECT_EQ(answers[i].ids, alone.ids) << batch_size << " at once, prompt " << i;
        EXPECT_EQ(answers[i].reason, alone.reason);
      }
    }
  }
}

TEST_P(Batches, AStepOfUpToEightHasTheBitsOfEachAlone) {
  std::vector<KvCache> together, alone;
  std::vector<KvCache*> caches;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < 8; ++i) {
    together.push_back(engine_->NewCache());
    alone.push_back(engine_->NewCache());
    (void)Must(engine_->Append(together[i], prompts_[i]));
    (void)Must(engine_->Append(alone[i], prompts_[i]));
    ids.push_back(static_cast<int32_t>(5 + 3 * i));
  }
  for (KvCache& cache : together) caches.push_back(&cache);
  for (int step = 0; step < 3; ++step) {
    const std::span<float> rows = Must(engine_->Step(caches, ids));
    const std::vector<float> logits(rows.begin(), rows.end());
    const size_t vocab = logits.size() / 8;
    for (size_t i = 0; i < 8; ++i) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * vocab);
      const auto own = LogitsAfter(*engine_, alone[i], {&ids[i], 1});
      EXPECT_TRUE(std::equal(own.begin(), own.end(), row)) << "step " << step << " row " << i;
    }
  }
}

// Another product kernel, which sums in another order: docs/cli.md says what that is worth.
TEST_P(Batches, AStepBeyondEightIsNearEachAlone) {
  for (const size_t rows : {size_t{9}, kMaxStepSequences}) {
    std::vector<KvCache> together;
    std::vector<KvCache*> caches;
    std::vector<int32_t> ids;
    std::vector<std::vector<float>> alone;
    for (size_t i = 0; i < rows; ++i) {
      const auto& prompt = prompts_[i % prompts_.size()];
      ids.push_back(static_cast<int32_t>(5 + 3 * i));
      together.push_back(engine_->NewCache());
      (void)Must(engine_->Append(together.back(), prompt));
      KvCache own = engine_->NewCache();
      (void)Must(engine_->Append(own, prompt));
      alone.push_back(LogitsAfter(*engine_, own, {&ids[i], 1}));
    }
    for (KvCache& cache : together) caches.push_back(&cache);
    const std::span<float> logits = Must(engine_->Step(caches, ids));
    double worst = 0;
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < alone[i].size(); ++j) {
        const double own = static_cast<double>(alone[i][j]);
        worst =
            std::max(worst, std::fabs(static_cast<double>(logits[i * alone[i].size() + j]) - own));
      }
    }
    RecordProperty(fmt::format("worst_logit_of_{}", rows), fmt::format("{}", worst));
    EXPECT_LT(worst, GetParam().dtype == DType::kF32 ? 2e-5 : 0.1) << rows << " at once";
  }
}

TEST_P(Batches, ErrorsNameThePromptAndEndTheBatch) {
  prompts_[4].push_back(323);
  size_t answered = 0;
  const Status status = GenerateBatch(*engine_, prompts_, {.max_new_tokens = 1}, 2,
                                      {.on_token = {}, .on_answer = [&](size_t, const auto&) {
                                         ++answered;
                                         return true;
                                       }});
  EXPECT_THAT(status.message(), HasSubstr("prompt 5"));
  EXPECT_THAT(status.message(), HasSubstr("has id 323"));
  EXPECT_EQ(answered, 4u);
  EXPECT_THAT(GenerateBatch(*engine_, prompts_, {}, 33, {}).message(),
              HasSubstr("batch_size is 33"));
  answered = 0;
  const Status ended = GenerateBatch(
      *engine_, prompts_, {.max_new_tokens = 1}, 2,
      {.on_token = {}, .on_answer = [&](size_t, const auto&) { return ++answered < 3; }});
  EXPECT_TRUE(ended.ok()) << ended.ToString();
  EXPECT_EQ(answered, 3u);
}

INSTANTIATE_TEST_SUITE_P(Types, Batches,
                         testing::Values(ComputeOptions{.threads = 1}, ComputeOptions{.threads = 2},
                                         ComputeOptions{.dtype = DType::kBF16, .threads = 2}),
                         [](const auto& param) {
                           return fmt::format("{}_threads{}",
                                              param.param.dtype == DType::kBF16 ? "bf16" : "f32",
                                              param.param.threads);
                         });

TEST_F(Generating, AConversationFeedsWhatIsNewAlone) {
  const GenerateOptions options{.max_new_tokens = 10};
  KvCache cache = engine_->NewCache();
  const auto first = Must(Generate(*engine_, cache, prompt_, options, {}));
  EXPECT_EQ(first.cached_tokens, 0);
  std::vector<int32_t> second = prompt_;
  second.insert(second.end(), first.ids.begin(), first.ids.end());
  second.insert(second.end(), {40, 41, 42});
  const auto on = Must(Generate(*engine_, cache, second, options, {}));
  // All but the last token of the answer, which was never fed, and the new ones.
  EXPECT_EQ(on.cached_tokens, static_cast<int64_t>(prompt_.size() + first.ids.size() - 1));
  KvCache fresh = engine_->NewCache();
  EXPECT_EQ(Must(Generate(*engine_, fresh, second, options, {})).ids, on.ids);
  // Another beginning: what differs is dropped. The same prompt again: its last token is fed.
  std::vector<int32_t> other = second;
  other[4] = 7;
  const auto turned = Must(Generate(*engine_, cache, other, options, {}));
  EXPECT_EQ(turned.cached_tokens, 4);
  fresh.Truncate(0);
  EXPECT_EQ(Must(Generate(*engine_, fresh, other, options, {})).ids, turned.ids);
  EXPECT_EQ(Must(Generate(*engine_, cache, other, options, {})).cached_tokens,
            static_cast<int64_t>(other.size()) - 1);
}

TEST_F(Generating, CachesThatDoNotFitAreRefusedWithNumbers) {
  const ModelConfig& config = base_->config();
  const size_t each = KvCache::BytesFor(config, DType::kF32, 100);
  EXPECT_EQ(each, 100u * 2 * 4 * static_cast<size_t>(config.num_layers * config.kv_size()));
  EXPECT_TRUE(CheckCachesFit(config, DType::kF32, 8, 100, 8 * each).ok());
  const Status status = CheckCachesFit(config, DType::kF32, 8, 100, 8 * each - 1);
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("8 answers of up to 100 tokens"));
  EXPECT_THAT(status.message(), HasSubstr("--batch_size 7 fits"));
  EXPECT_THAT(CheckCachesFit(config, DType::kF32, 1, 100, each / 2).message(),
              HasSubstr("fewer --max_new_tokens"));
  // No sequence is longer than the positions.
  EXPECT_TRUE(CheckCachesFit(config, DType::kF32, 1, 1 << 30, 3 * each).ok());
}

TEST(ChooseToken, TiesGoToTheLowestIdAndPaddedIdsAreNeverChosen) {
  const std::vector<float> logits = {0, 2, 1, 2, 9};
  EXPECT_EQ(Must(ChooseToken(logits, {}, 0)), 4);
  EXPECT_EQ(Must(ChooseToken(logits, {.vocab_limit = 4}, 0)), 1);
  EXPECT_EQ(Must(ChooseToken(logits, {.vocab_limit = 99}, 0)), 4);
  for (uint64_t i = 0; i < 200; ++i) {
    EXPECT_LT(Must(ChooseToken(logits, {.temperature = 5, .seed = 1, .vocab_limit = 4}, i)), 4);
  }
}

TEST(ChooseToken, SamplesFollowTheSoftmaxAndTheNucleus) {
  // Probabilities 0.5, 0.3, 0.2 at temperature 1.
  const std::vector<float> logits = {std::log(0.3f), std::log(0.5f), -kInf, std::log(0.2f)};
  constexpr int kDraws = 20000;
  const auto counts = [&](double temperature, double top_p) {
    std::vector<int> out(4);
    for (uint64_t i = 0; i < kDraws; ++i) {
      ++out[static_cast<size_t>(
          Must(ChooseToken(logits, {.temperature = temperature, .top_p = top_p, .seed = 9}, i)))];
    }
    return out;
  };
  const auto plain = counts(1, 1);  // 5 standard deviations are 360
  EXPECT_NEAR(plain[0], 0.3 * kDraws, 360);
  EXPECT_NEAR(plain[1], 0.5 * kDraws, 360);
  EXPECT_EQ(plain[2], 0);
  EXPECT_NEAR(plain[3], 0.2 * kDraws, 360);
  const auto nucleus = counts(1, 0.7);  // two tokens reach it: 5/8 and 3/8
  EXPECT_NEAR(nucleus[1], 0.625 * kDraws, 360);
  EXPECT_EQ(nucleus[3], 0);
  const auto cold = counts(0.5, 1);  // 0.25, 0.09, 0.04 of 0.38
  EXPECT_NEAR(cold[1], 0.25 / 0.38 * kDraws, 360);
}

// The k-th and those as likely stay, as in transformers' TopKLogitsWarper; then the nucleus of
// them.
TEST(ChooseToken, TopKComesBeforeTopP) {
  const std::vector<float> logits = {1, 4, 2, 3, 2, -kInf};
  const auto seen = [&](int64_t top_k, double top_p) {
    std::set<int32_t> ids;
    for (uint64_t i = 0; i < 300; ++i) {
      ids.insert(Must(
          ChooseToken(logits, {.temperature = 3, .top_k = top_k, .top_p = top_p, .seed = 2}, i)));
    }
    return ids;
  };
  EXPECT_EQ(seen(1, 1), (std::set<int32_t>{1}));
  EXPECT_EQ(seen(2, 1), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(seen(3, 1), (std::set<int32_t>{1, 2, 3, 4}));
  EXPECT_EQ(seen(99, 1), (std::set<int32_t>{0, 1, 2, 3, 4}));
  // exp(4/3) and exp(3/3) are 0.58 and 0.42 of the two that are left.
  EXPECT_EQ(seen(2, 0.57), (std::set<int32_t>{1}));
  EXPECT_EQ(seen(2, 0.59), (std::set<int32_t>{1, 3}));
}

// RepetitionPenaltyLogitsProcessor: what was seen is divided when above 0 and multiplied below,
// once, however often it was seen.
TEST(ChooseToken, RepetitionIsPenalisedAsInTransformers) {
  const auto choose = [](std::vector<float> logits, double penalty, std::vector<int32_t> seen) {
    return Must(ChooseToken(std::move(logits), {.repetition_penalty = penalty}, 0, seen));
  };
  EXPECT_EQ(choose({4, 3, 1}, 1.0, {0}), 0);
  EXPECT_EQ(choose({4, 3, 1}, 1.4, {0}), 1);        // 2.86
  EXPECT_EQ(choose({4, 3, 1}, 1.3, {0, 0}), 0);     // 3.08, not 2.37
  EXPECT_EQ(choose({4, 3, 1}, 1.4, {0, 1}), 0);     // 2.86, 2.14
  EXPECT_EQ(choose({-1, -1.2f, -3}, 1.3, {0}), 1);  // -1.3
  EXPECT_EQ(choose({4, 3, 1}, 0.7, {1, 9}), 1);     // 4.29; 9 is beyond the vocabulary
}

TEST(ChooseToken, RefusesLogitsThatAreNotNumbers) {
  EXPECT_THAT(ChooseToken(std::vector<float>{0, NAN}, {}, 0).error().message(),
              HasSubstr("logit for id 1 is NaN"));
  EXPECT_FALSE(ChooseToken(std::vector<float>{-kInf, -kInf}, {}, 0));
  EXPECT_FALSE(ChooseToken(std::vector<float>{1, kInf}, {}, 0));
  EXPECT_FALSE(ChooseToken(std::vector<float>{}, {}, 0));
}

}  // namespace
}  // namespace tidegate::model
