#include "finetune/decode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace tidegate::finetune {
namespace {

// Says after each token the next one of a fixed chain; records what it was given.
class ChainEngine final : public model::Engine {
 public:
  void SetParameters(std::span<const float>) override {}
  Result<model::LossSum> ForwardBackward(const tokens::PackedBatch&, uint64_t, uint32_t) override {
    return Unsupported("decoding only");
  }
  void TakeGradients(double, std::span<float>) override {}
  Result<model::LossSum> Evaluate(const tokens::PackedBatch&) override {
    return Unsupported("decoding only");
  }
  Result<std::vector<double>> TokenLosses(const tokens::PackedBatch&) override {
    return Unsupported("decoding only");
  }
  void ResetSequence() override { given.clear(); }
  Result<std::vector<float>> Append(std::span<const int32_t> ids) override {
    given.insert(given.end(), ids.begin(), ids.end());
    std::vector<float> logits(10, 0.0f);
    logits[static_cast<size_t>((given.back() + 1) % 10)] = poison ? NAN : 5.0f;
    return logits;
  }
  std::vector<int32_t> given;
  bool poison = false;
};

const std::vector<int32_t> kPrompt = {1, 2};
const std::vector<int32_t> kStop = {8, 6};

TEST(Decode, GoesOnUntilAStopTokenWhichIsNotPartOfTheAnswer) {
  ChainEngine engine;
  const Decoded out = Decode(engine, kPrompt, kStop, 100, {}).value();
  EXPECT_EQ(out.ids, (std::vector<int32_t>{3, 4, 5}));
  EXPECT_TRUE(out.stopped);
  EXPECT_EQ(engine.given, (std::vector<int32_t>{1, 2, 3, 4, 5}));
}

TEST(Decode, EndsAtTheLimitAndAtTheLastPosition) {
  ChainEngine engine;
  const Decoded two = Decode(engine, kPrompt, kStop, 100, {.max_new_tokens = 2}).value();
  EXPECT_EQ(two.ids, (std::vector<int32_t>{3, 4}));
  EXPECT_FALSE(two.stopped);
  const Decoded one = Decode(engine, kPrompt, kStop, 3, {}).value();
  EXPECT_EQ(one.ids, (std::vector<int32_t>{3}));
  EXPECT_FALSE(one.stopped);
  EXPECT_EQ(Decode(engine, kPrompt, kStop, 2, {}).error().code(), Code::kResourceExhausted);
  EXPECT_EQ(Decode(engine, {}, kStop, 9, {}).error().code(), Code::kInvalidArgument);
}

TEST(Decode, TheCallerCanEndIt) {
  ChainEngine engine;
  const Decoded out =
      Decode(engine, kPrompt, kStop, 100, {}, [](int32_t id) { return id != 4; }).value();
  EXPECT_EQ(out.ids, (std::vector<int32_t>{3, 4}));
}

TEST(Decode, ALogitThatIsNotFiniteIsAnError) {
  ChainEngine engine;
  engine.poison = true;
  EXPECT_EQ(Decode(engine, kPrompt, kStop, 100, {}).error().code(), Code::kFailedPrecondition);
}

TEST(ChooseToken, GreedyTakesTheLowestIdOnTiesAndNoPadding) {
  const std::vector<float> logits = {1, 3, 3, 9};
  EXPECT_EQ(ChooseToken(logits, {.vocab_size = 3}, 0).value(), 1);
  EXPECT_EQ(ChooseToken(logits, {}, 0).value(), 3);
}

TEST(ChooseToken, SamplingFollowsTheProbabilities) {
  // p = 0.6, 0.3, 0.1
  const std::vector<float> logits = {std::log(0.1f), std::log(0.6f), std::log(0.3f)};
  std::map<int32_t, int> count;
  constexpr int kDraws = 20'000;
  for (int i = 0; i < kDraws; ++i) {
    ++count[ChooseToken(logits, {.temperature = 1, .seed = 3}, i).value()];
  }
  EXPECT_NEAR(count[1], 0.6 * kDraws, 300);
  EXPECT_NEAR(count[2], 0.3 * kDraws, 300);
  EXPECT_NEAR(count[0], 0.1 * kDraws, 300);
}

TEST(ChooseToken, TopPKeepsTheSmallestSetThatReachesIt) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.6f), std::log(0.3f)};
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(ChooseToken(logits, {.temperature = 1, .top_p = 0.5}, i).value(), 1);
    EXPECT_NE(ChooseToken(logits, {.temperature = 1, .top_p = 0.8}, i).value(), 0);
  }
}

TEST(ChooseToken, TheSameSeedGivesTheSameTokens) {
  const std::vector<float> logits(50, 0.0f);
  std::vector<int32_t> first, again, other;
  for (int i = 0; i < 50; ++i) {
    first.push_back(ChooseToken(logits, {.temperature = 1, .seed = 1}, i).value());
    again.push_back(ChooseToken(logits, {.temperature = 1, .seed = 1}, i).value());
    other.push_back(ChooseToken(logits, {.temperature = 1, .seed = 2}, i).value());
  }
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
}

TEST(Decode, RefusesOptionsOutOfRange) {
  EXPECT_FALSE(CheckDecode({.max_new_tokens = 0}).ok());
  EXPECT_FALSE(CheckDecode({.temperature = -1}).ok());
  EXPECT_FALSE(CheckDecode({.temperature = NAN}).ok());
  EXPECT_FALSE(CheckDecode({.top_p = 0}).ok());
  EXPECT_FALSE(CheckDecode({.top_p = 1.1}).ok());
}

}  // namespace
}  // namespace tidegate::finetune
