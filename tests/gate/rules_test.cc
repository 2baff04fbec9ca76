#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "gate_samples.h"
#include "protocols/strategy.h"

namespace tidegate::gate {
namespace {

// The rule that refuses, or "" for none.
std::string JobVerdict(const protocols::JobManifest& job, const std::string& site = "north") {
  const protocols::Id16 id = IdOf(job);
  const auto refusal = ReviewJob({SamplePolicy(), job, id, site});
  return refusal ? refusal->rule : "";
}

TEST(JobRules, AcceptTheSample) { EXPECT_EQ(JobVerdict(SampleJob()), ""); }

TEST(JobRules, RefuseEachByItsRule) {
  const auto with = [](auto&& change) {
    protocols::JobManifest job = SampleJob();
    change(job);
    return JobVerdict(job);
  };
  EXPECT_EQ(with([](auto& j) { j.federation[0] = 8; }), "coordinator");
  EXPECT_EQ(JobVerdict(SampleJob(), "east"), "coordinator");
  EXPECT_EQ(with([](auto& j) { j.name = "other"; }), "job");
  EXPECT_EQ(with([](auto& j) { j.rounds = 11; }), "job");
  EXPECT_EQ(with([](auto& j) { j.rounds = 0; }), "job");
  EXPECT_EQ(with([](auto& j) { j.local_steps = 21; }), "job");
  EXPECT_EQ(with([](auto& j) {
              j.weighting = protocols::Weighting::kTokens;
              j.max_weight = protocols::kMaxWeight + 1;
            }),
            "job");
  EXPECT_EQ(with([](auto& j) { j.base_hash[0] ^= 1; }), "base");
  EXPECT_EQ(with([](auto& j) { j.layout.tensors.items[0].name = "head.lora_A"; }), "layout");
  EXPECT_EQ(with([](auto& j) { j.layout.tensors.items[0].rows = 5; }), "layout");
  EXPECT_EQ(with([](auto& j) { j.layout.tensors.items[0].cols = 0; }), "layout");
  // More than passes between the gate and its trainer.
  EXPECT_EQ(with([](auto& j) { j.layout.tensors.items[0].cols = protocols::kMaxUpdateValues / 4; }),
            "layout");
  EXPECT_EQ(with([](auto& j) { j.layout.tensors.items[1].group = 2; }), "layout");
  EXPECT_EQ(with([](auto& j) { j.layout.tensors.items[1] = j.layout.tensors.items[0]; }), "layout");
  EXPECT_EQ(with([](auto& j) { j.layout.tensors.items.clear(); }), "layout");
  EXPECT_EQ(with([](auto& j) { j.layout.tensors.items.resize(9); }), "layout");
  EXPECT_EQ(with([](auto& j) { j.lora_r = 1000; }), "layout");
  EXPECT_EQ(with([](auto& j) { j.phase_groups.items = {4}; }), "layout");
  EXPECT_EQ(with([](auto& j) { j.phase_groups.items = {}; }), "layout");
  EXPECT_EQ(with([](auto& j) { j.strategy = protocols::Strategy::kFfaLora; }), "layout")
      << "it says that B alone is shared, the phases that A is too";
  EXPECT_EQ(with([](auto& j) {
              j.strategy = protocols::Strategy::kFedSaLora;
              j.phase_groups.items = {protocols::kOnlyA};
            }),
            "");
}

struct Case {
  protocols::JobManifest job = SampleJob();
  protocols::RoundAnnouncement round;
  protocols::UpdateHeader header;
  Bytes update;
  Spent spent;
  uint64_t sealed = 70000;
  bool round_spent = false;

  Case() {
    round.job = IdOf(job);
    round.round = 2;
    header = SampleHeader(job, 2);
    update = SampleUpdate(job, header);
  }
  std::string Verdict() const { return VerdictUnder(SamplePolicy()); }
  std::string VerdictUnder(const Policy& policy) const {
    const std::string site = "north";
    const Digest layout = LayoutDigest(job);
    const protocols::Id16 id = IdOf(job);
    auto verdict = Review::JudgeUpdate(
        {policy, job, round, id, site, layout, update, sealed, spent, round_spent, std::nullopt});
    EXPECT_NE(verdict.cleared.has_value(), verdict.refusal.has_value());
    return verdict.refusal ? verdict.refusal->rule : "";
  }
  std::string WithHeader(const std::function<void(protocols::UpdateHeader&)>& change) {
    protocols::UpdateHeader other = header;
    change(other);
    Case copy = *this;
    copy.update = SampleUpdate(job, other);
    return copy.Verdict();
  }
};

TEST(UpdateRules, AcceptTheSampleAndSayWhatItCouldCarry) {
  Case c;
  EXPECT_EQ(c.Verdict(), "");
  const std::string site = "north";
  c.round = SampleRound(c.job, 2);
  const auto sealed = Sealing::Seal(*std::move(SampleVerdict(c.job, 2).cleared),
                                    {site, c.job, c.round, c.update, 1, 1000});
  ASSERT_TRUE(sealed.has_value()) << sealed.error().ToString();
  const IntentLeaf& intent = sealed->intent();
  EXPECT_EQ(intent.plaintext, crypto::Sha256::Of(c.update));
  EXPECT_EQ(intent.key, (protocols::UpdateKey{IdOf(c.job), 2, 0, site}));
  EXPECT_EQ(intent.values, 600u);
  EXPECT_GT(intent.capacity_bits, 600 * 7.9);
  EXPECT_NEAR(intent.l2_norm, 0.0078125 * std::sqrt(600.0), 1e-5);
}

TEST(UpdateRules, RefuseEachByItsRule) {
  Case c;
  EXPECT_EQ(c.WithHeader([](auto& h) { h.job[0] ^= 1; }), "round");
  EXPECT_EQ(c.WithHeader([](auto& h) { h.round = 1; }), "round");
  EXPECT_EQ(c.WithHeader([](auto& h) { h.phase = 1; }), "round");
  EXPECT_EQ(c.WithHeader([](auto& h) { h.groups = 1; }), "round");
  EXPECT_EQ(c.WithHeader([](auto& h) { h.base_hash[1] = 1; }), "round");
  EXPECT_EQ(c.WithHeader([](auto& h) { h.layout_digest[1] ^= 1; }), "round");
  EXPECT_EQ(c.WithHeader([](auto& h) { h.site[0] = 'x'; }), "round");
  EXPECT_EQ(c.WithHeader([](auto& h) { h.weight = 2; }), "round");
  EXPECT_EQ(c.WithHeader([](auto& h) { h.metrics.train_loss_milli = 2'000'000; }), "metrics");
  EXPECT_EQ(c.WithHeader([](auto& h) { h.codec = protocols::Codec::kFixed32; }), "encoding");
  Case cut = c;
  cut.update.pop_back();
  EXPECT_EQ(cut.Verdict(), "encoding");
  Case loud = c;
  loud.update = SampleUpdate(loud.job, loud.header, 1.0f);
  EXPECT_EQ(loud.Verdict(), "norm");
  Case again = c;
  again.round_spent = true;
  EXPECT_EQ(again.Verdict(), "round");
}

// What an update could carry is debited, whatever it does carry.
TEST(UpdateRules, BitsAreABudgetToo) {
  Case sample;
  const std::string site = "north";
  const Digest layout = LayoutDigest(sample.job);
  const protocols::Id16 id = IdOf(sample.job);
  UpdateCase whole{SamplePolicy(), sample.job,    sample.round, id,    site,        layout,
                   sample.update,  sample.sealed, {},           false, std::nullopt};
  ASSERT_FALSE(EncodingRule(whole).has_value());
  const auto bits = static_cast<uint64_t>(std::ceil(UpdateBits(whole)));
  EXPECT_GT(bits, 600u * 7u);
  const auto verdict = [&sample](const std::string& key, uint64_t limit, const Spent& spent) {
    const auto policy =
        ParsePolicy(fmt::format("{}{} = {}\n", SamplePolicyText(), key, limit), "policy.toml");
    EXPECT_TRUE(policy.has_value()) << policy.error().ToString();
    Case c = sample;
    c.spent = spent;
    return c.VerdictUnder(*policy);
  };
  Spent before;
  EXPECT_EQ(verdict("max_bits_per_round", bits, before), "");
  EXPECT_EQ(verdict("max_bits_per_round", bits - 1, before), "budget");
  before.bits_of_job = 5000;
  EXPECT_EQ(verdict("max_bits_per_round", bits, before), "");
  EXPECT_EQ(verdict("max_bits_per_job", bits + 5000, before), "");
  EXPECT_EQ(verdict("max_bits_per_job", bits + 4999, before), "budget");
  before.bits_of_round = 1;
  EXPECT_EQ(verdict("max_bits_per_round", bits, before), "budget");
  before.bytes_of_job = 100;
  EXPECT_EQ(verdict("max_bytes_per_job", sample.sealed + 100, before), "");
  EXPECT_EQ(verdict("max_bytes_per_job", sample.sealed + 99, before), "budget");
}

TEST(UpdateRules, BudgetsAreSums) {
  Case c;
  c.sealed = 100001;
  EXPECT_EQ(c.Verdict(), "budget");
  c.sealed = 70000;
  c.spent.bytes_today = 80000;
  EXPECT_EQ(c.Verdict(), "");
  c.spent.bytes_today = 80001;
  EXPECT_EQ(c.Verdict(), "budget");
  c.spent = {.exports_today = 5};
  EXPECT_EQ(c.Verdict(), "budget");
  c.spent = {.exports_of_job = 7};
  EXPECT_EQ(c.Verdict(), "budget");
  c.spent = {.exports_today = 4, .exports_of_job = 6};
  EXPECT_EQ(c.Verdict(), "");
  c.spent = {.exports_of_round = 1};
  EXPECT_EQ(c.Verdict(), "budget") << "one a round, where policy does not say more";
  c.spent = {.bytes_of_round = 30'000};
  EXPECT_EQ(c.Verdict(), "");
  c.spent = {.bytes_of_round = 30'001};
  EXPECT_EQ(c.Verdict(), "budget") << "the bytes of a round are a sum too";
}

// All that the trainer chooses is counted: with tokens as weight and both losses 16 + 2 · 20 bits.
TEST(UpdateRules, TheCapacityOfAnExportCountsWeightAndLossesToo) {
  const auto bits = [](const protocols::JobManifest& job) {
    const auto sealed = Sealing::Seal(
        *std::move(SampleVerdict(job, 2).cleared),
        {"north", job, SampleRound(job, 2), SampleUpdate(job, SampleHeader(job, 2)), 1, 1000});
    return sealed->intent().capacity_bits;
  };
  protocols::JobManifest job = SampleJob();
  const double integers = CapacityBits(job.codec, 400) + CapacityBits(job.codec, 200);
  EXPECT_NEAR(bits(job) - integers, 2 * std::log2(1'000'001.0), 1e-6);
  job.weighting = protocols::Weighting::kTokens;
  job.max_weight = 1 << 16;
  EXPECT_NEAR(bits(job) - integers, 16 + 2 * std::log2(1'000'001.0), 1e-6);
}

// log2 of how many tensors the parser takes, counted.
TEST(UpdateRules, TheCapacityOfACodecIsTheNumberOfItsUpdates) {
  using protocols::Codec;
  EXPECT_EQ(CapacityBits(Codec::kFixed32, 3), 96.0);
  // A sign, and the bits of 0 … 64; one zero.
  EXPECT_NEAR(CapacityBits(Codec::kBf16, 10), 10 * std::log2(2.0 * 0x4280 - 1), 1e-9);
  // Floats from `low`, a power of two, to below the limit.
  const auto between = [](float low, double limit) {
    double count = 0;
    for (float power = low; power < limit; power *= 2) {
      count += std::min(limit, 2.0 * power) >= 2.0 * power
                   ? 0x1p23
                   : std::ceil((limit - power) / power * 0x1p23);
    }
    return count;
  };
  const double int4 = between(0x1p-40f, 64.0 / 7), int8 = between(0x1p-40f, 64.0 / 127);
  EXPECT_NEAR(CapacityBits(Codec::kInt4, 1), std::log2(1 + int4 * 2), 1e-9);
  EXPECT_NEAR(CapacityBits(Codec::kInt4, 2), std::log2(1 + int4 * (15 * 15 - 13 * 13)), 1e-9);
  EXPECT_NEAR(CapacityBits(Codec::kInt4, 66),
              CapacityBits(Codec::kInt4, 64) + CapacityBits(Codec::kInt4, 2), 1e-9);
  EXPECT_NEAR(CapacityBits(Codec::kInt8, 1), std::log2(1 + int8 * 2), 1e-9);
  EXPECT_NEAR(CapacityBits(Codec::kInt8, 256),
              256 * std::log2(255.0) + std::log2(1 - std::pow(253.0 / 255, 256)) + std::log2(int8),
              1e-9);
}

TEST(JobRules, ACodecRunsWherePolicyNamesIt) {
  for (const char* named : {"fixed32", "int8", "bf16", "int4"}) {
    std::string text = SamplePolicyText();
    const size_t at = text.find("codecs = [");
    ASSERT_NE(at, std::string::npos);
    text.replace(at, text.find('\n', at) - at, fmt::format("codecs = [\"{}\"]", named));
    const auto policy = ParsePolicy(text, "policy.toml");
    ASSERT_TRUE(policy.has_value()) << policy.error().ToString();
    for (const char* asked : {"fixed32", "int8", "bf16", "int4"}) {
      protocols::JobManifest job = SampleJob();
      job.codec = *protocols::CodecOf(asked);
      const auto refusal = ReviewJob({*policy, job, IdOf(job), "north"});
      if (std::string(asked) == named) {
        EXPECT_FALSE(refusal.has_value()) << refusal->reason;
      } else {
        ASSERT_TRUE(refusal.has_value());
        EXPECT_EQ(refusal->reason, fmt::format("codec {} is not in export.codecs", asked));
      }
    }
  }
}

// Nothing of it is rounded: a job that says otherwise means another codec.
TEST(JobRules, Fixed32TakesNeitherChanceNorFeedback) {
  const auto why_not = [](protocols::Rounding rounding, bool feedback, protocols::Codec codec) {
    protocols::JobManifest job = SampleJob();
    job.codec = codec;
    job.rounding = rounding;
    job.error_feedback = feedback;
    const auto refusal = ReviewJob({SamplePolicy(), job, IdOf(job), "north"});
    return refusal ? refusal->rule + ": " + refusal->reason : "";
  };
  using protocols::Codec, protocols::Rounding;
  const std::string reason = "layout: codec fixed32 rounds nothing and carries nothing over";
  EXPECT_EQ(why_not(Rounding::kStochastic, false, Codec::kFixed32), reason);
  EXPECT_EQ(why_not(Rounding::kNearest, true, Codec::kFixed32), reason);
  EXPECT_EQ(why_not(Rounding::kNearest, false, Codec::kFixed32), "");
  EXPECT_EQ(why_not(Rounding::kStochastic, true, Codec::kInt8), "");
}

TEST(UpdateRules, TakeAnUpdateInEachCodec) {
  for (const char* name : {"bf16", "int4"}) {
    Case c;
    c.job.codec = c.header.codec = *protocols::CodecOf(name);
    c.round.job = c.header.job = IdOf(c.job);
    c.update = SampleUpdate(c.job, c.header);
    EXPECT_EQ(c.Verdict(), "") << name;
    EXPECT_EQ(c.WithHeader([](auto& h) { h.codec = protocols::Codec::kInt8; }), "encoding");
  }
}

TEST(ParametersRule, TakesNumbersOfTheGridAlone) {
  const auto verdict = [](float value) {
    Bytes bytes(12, 0);
    std::memcpy(bytes.data() + 4, &value, sizeof(value));
    const auto refusal = ParametersRule(bytes);
    return refusal ? refusal->rule : "";
  };
  for (const float good : {0.0f, -0.0f, 0x1p-28f, -0x1p-28f, 1.5f, 0x1.fffffep1f, -0x1.fffffep1f}) {
    EXPECT_EQ(verdict(good), "") << good;
  }
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), infinity, -infinity, 4.0f, -4.0f, 0x1p-29f, 0x1p-149f}) {
    EXPECT_EQ(verdict(bad), "parameters") << bad;
  }
  EXPECT_TRUE(ParametersRule(Bytes(5, 0)).has_value());
}

TEST(ParametersRule, SaysOfEveryExponentWhatDoubleArithmeticSays) {
  uint32_t wrong = 0;
  // All signs and exponents, each with many mantissas, those of few and of odd bits among them.
  for (uint32_t high = 0; high < 512; ++high) {
    for (uint32_t i = 0; i < 1024; ++i) {
      const uint32_t mantissa = i < 512 ? i : i * 0x9e3779b1u >> 9;
      const uint32_t bits = high << 23 | mantissa;
      Bytes bytes(4);
      StoreLe32(bytes.data(), bits);
      const double steps = static_cast<double>(std::bit_cast<float>(bits)) * 0x1p28;
      const bool good = std::abs(steps) < 0x1p30 && steps == std::nearbyint(steps);
      wrong += good != !ParametersRule(bytes).has_value();
    }
  }
  EXPECT_EQ(wrong, 0u);
}

TEST(UpdateRules, AMetricThatPolicyDoesNotNameIsRefused) {
  std::string text = SamplePolicyText();
  const size_t at = text.find("metrics = ");
  text.erase(at);
  const Policy policy = *ParsePolicy(text, "policy.toml");
  Case c;
  const std::string site = "north";
  const Digest layout = LayoutDigest(c.job);
  const protocols::Id16 id = IdOf(c.job);
  auto verdict = Review::JudgeUpdate(
      {policy, c.job, c.round, id, site, layout, c.update, c.sealed, c.spent, false, std::nullopt});
  ASSERT_TRUE(verdict.refusal.has_value());
  EXPECT_EQ(verdict.refusal->rule, "metrics");
}

}  // namespace
}  // namespace tidegate::gate
