#include "gate/policy.h"

#include <gtest/gtest.h>

#include "gate_samples.h"

namespace tidegate::gate {
namespace {

TEST(Policy, AWholePolicyIsRead) {
  const auto policy = ParsePolicy(SamplePolicyText(), "policy.toml");
  ASSERT_TRUE(policy.has_value()) << policy.error().ToString();
  EXPECT_EQ(policy->max_rank, 16u);
  EXPECT_EQ(policy->norm_clip, 10.0);
  EXPECT_EQ(policy->codecs.size(), 2u);
  EXPECT_TRUE(policy->train_loss);
  EXPECT_EQ(policy->walls.size(), 4u);
  EXPECT_EQ(policy->ground.at(0).key, "consent_basis");
  EXPECT_EQ(policy->max_exports_per_round, 1u) << "the one limit that has a default";
  EXPECT_EQ(ParsePolicy(SamplePolicyText() + "max_exports_per_round = 16\n", "policy.toml")
                ->max_exports_per_round,
            16u);
}

// Every key is needed: nothing is allowed by default.
TEST(Policy, EachMissingKeyIsRefusedByName) {
  const std::string text = SamplePolicyText();
  for (const std::string key :
       {"key", "federation", "allow", "base_hashes", "max_rounds", "max_local_steps", "tensors",
        "max_rank", "max_tensors", "codecs", "norm_clip", "max_bytes_per_round",
        "max_bytes_per_day", "max_exports_per_day", "max_exports_per_job", "waiver"}) {
    std::string without = text;
    const size_t at = without.find("\n" + key + " =");
    ASSERT_NE(at, std::string::npos) << key;
    without.erase(at, without.find('\n', at + 1) - at);
    const auto policy = ParsePolicy(without, "policy.toml");
    ASSERT_FALSE(policy.has_value()) << key;
    EXPECT_NE(policy.error().message().find("." + key + " is missing"), std::string::npos)
        << policy.error().message();
  }
}

TEST(Policy, UnknownKeysSectionsAndValuesAreErrorsWithTheirLine) {
  const auto refused = [](const std::string& text, const std::string& part) {
    const auto policy = ParsePolicy(text, "policy.toml");
    ASSERT_FALSE(policy.has_value()) << part;
    EXPECT_NE(policy.error().message().find(part), std::string::npos) << policy.error().message();
  };
  const std::string good = SamplePolicyText();
  refused(good + "extra = 1\n", "is not known");
  refused(good + "[other]\nx = 1\n", "is not a section");
  refused(good + "[privacy2]\n", "is not a section");
  refused("[privacy]\nepsilon = 8.0\n", "not built yet");
  refused(good + "[[[\n", "line");
  refused("[export]\nmax_bits_per_job = 0\n", "must be a whole number");
  refused("[jobs]\napproved_by = 3\n", "must be a text");
  refused("[export]\nmax_rank = -1\n", "must be a whole number");
  refused("[export]\nmax_exports_per_round = 0\n", "1 … 16");
  refused("[export]\nmax_exports_per_round = 17\n", "1 … 16");
  refused("[export]\nmax_rank = \"16\"\n", "policy.toml line 2: export.max_rank");
  refused("[export]\ncodecs = [\"int2\"]\n", "takes fixed32, int8, bf16, int4");
  refused("[export]\nnorm_clip = nan\n", "must be above 0");
  refused("[jobs]\nbase_hashes = [\"00\"]\n", "64 hex digits");
  refused(std::string(kMaxPolicyBytes + 1, '#'), "at most");
}

TEST(Policy, PatternsMatchWholeNames) {
  EXPECT_TRUE(NameAllowed({"a.*.b"}, "a.1.2.b"));
  EXPECT_FALSE(NameAllowed({"a.*.b"}, "a.1.2.bc"));
  EXPECT_FALSE(NameAllowed({"a.*.b"}, "xa.1.b"));
  EXPECT_TRUE(NameAllowed({"x", "*"}, "anything"));
  EXPECT_FALSE(NameAllowed({}, "anything"));
  EXPECT_TRUE(NameAllowed({"*a*a*b"}, "aaaab"));
  EXPECT_FALSE(NameAllowed({"*a*a*b"}, "aaaa"));
}

}  // namespace
}  // namespace tidegate::gate
