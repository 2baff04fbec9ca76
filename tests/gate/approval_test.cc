// Which approvals count, and what a held update needs.
#include "gate/approval.h"

#include <gtest/gtest.h>

#include "crypto/document.h"
#include "gate/review.h"
#include "gate_samples.h"

namespace tidegate::gate {
namespace {

constexpr int64_t kNow = 1795581436000, kHour = 3'600'000;

crypto::SigningKey KeyNo(uint8_t number) {
  crypto::Secret<32> seed;
  seed.reveal_mutable()[0] = number;
  return *crypto::SigningKey::FromSeed(seed);
}
const crypto::SigningKey& Alice() {
  static const crypto::SigningKey key = KeyNo(21);
  return key;
}
const crypto::SigningKey& Bob() {
  static const crypto::SigningKey key = KeyNo(22);
  return key;
}

std::string PolicyText(const std::string& hold, int needed) {
  return SamplePolicyText() + fmt::format(
                                  "[approval]\nhold = \"{}\"\nneeded = {}\napprovers = {{ "
                                  "alice = \"{}\", bob = \"{}\" }}\n",
                                  hold, needed, Alice().verify_key().ToText(),
                                  Bob().verify_key().ToText());
}

class ApprovalTest : public testing::Test {
 protected:
  Approval Of(const std::string& approver, Decision decision = Decision::kRelease) const {
    Approval approval;
    approval.federation = Federation();
    approval.key = key_;
    approval.plaintext = plaintext_;
    approval.decision = decision;
    approval.approver = approver;
    approval.reason = "looked at";
    approval.unix_millis = kNow - kHour;
    return approval;
  }
  static protocols::Signed Sign(const crypto::SigningKey& key, const Approval& approval) {
    return *crypto::SignDocument(key, crypto::domains::kExportApproval, approval);
  }
  Standing StandingNow(const std::vector<protocols::Signed>& documents) const {
    return StandingOf(policy_, key_, plaintext_, documents, {}, kNow);
  }

  Policy policy_ = *ParsePolicy(PolicyText("always", 2), "policy.toml");
  protocols::UpdateKey key_{IdOf(SampleJob()), 1, 0, "north"};
  protocols::Hash32 plaintext_ = crypto::Sha256::Of(Bytes{1, 2, 3});
};

TEST_F(ApprovalTest, FourEyesAreTwoKeysAndNotOneTwice) {
  const auto alice = Sign(Alice(), Of("alice")), bob = Sign(Bob(), Of("bob"));
  EXPECT_EQ(StandingNow({alice}).releases.size(), 1u);
  EXPECT_EQ(StandingNow({alice, alice, alice}).releases.size(), 1u);
  EXPECT_EQ(StandingNow({alice, bob}).releases.size(), 2u);
  // Alice under Bob's name, and under a name of her own.
  EXPECT_EQ(StandingNow({alice, Sign(Alice(), Of("bob"))}).releases.size(), 1u);
  EXPECT_EQ(StandingNow({alice, Sign(Alice(), Of("carol"))}).releases.size(), 1u);
}

TEST_F(ApprovalTest, IsForTheseVeryBytesAndNoOthers) {
  const std::pair<const char*, std::function<void(Approval&)>> other[] = {
      {"federation", [](Approval& a) { a.federation[0] ^= 1; }},
      {"job", [](Approval& a) { a.key.job[0] ^= 1; }},
      {"round", [](Approval& a) { ++a.key.round; }},
      {"phase", [](Approval& a) { ++a.key.phase; }},
      {"site", [](Approval& a) { a.key.site = "south"; }},
      {"plaintext", [](Approval& a) { a.plaintext[31] ^= 1; }},
      {"tomorrow", [](Approval& a) { a.unix_millis = kNow + 2 * kHour; }},
      {"last week", [](Approval& a) { a.unix_millis = kNow - 73 * kHour; }},
      {"as long ago as can be said", [](Approval& a) { a.unix_millis = INT64_MIN; }}};
  for (const auto& [what, change] : other) {
    Approval approval = Of("alice");
    change(approval);
    EXPECT_TRUE(StandingNow({Sign(Alice(), approval)}).releases.empty()) << what;
  }
  auto flipped = Sign(Alice(), Of("alice"));
  flipped.body.items[0] ^= 1;
  EXPECT_TRUE(StandingNow({flipped}).releases.empty());
  // A signature for another purpose.
  EXPECT_TRUE(StandingNow({*crypto::SignDocument(Alice(), crypto::domains::kReceipt, Of("alice"))})
                  .releases.empty());
}

TEST_F(ApprovalTest, AnApproversNewestWordHolds) {
  Approval no = Of("alice", Decision::kRefuse);
  no.unix_millis += 1;
  const auto yes = Sign(Alice(), Of("alice")), refused = Sign(Alice(), no);
  for (const auto& documents : {std::vector<protocols::Signed>{yes, refused}, {refused, yes}}) {
    const Standing standing = StandingNow(documents);
    EXPECT_TRUE(standing.releases.empty());
    ASSERT_TRUE(standing.refusal.has_value());
    EXPECT_EQ(standing.refusal->approver, "alice");
  }
}

// What was said over the local API counts for the user that policy names, beside signatures, and an
// approver's newest word holds whichever way it was said.
TEST_F(ApprovalTest, AUserThatPolicyNamesSaysItOverTheApi) {
  policy_.approver_uids = {{"carol", 1001}, {"dave", 1002}};
  const auto said = [this](const std::string& name, uint32_t uid, Decision decision) {
    Said one;
    one.leaf.key = key_;
    one.leaf.plaintext = plaintext_;
    one.leaf.decision = decision;
    one.leaf.approver = name;
    one.leaf.uid = uid;
    one.leaf.reason = "because";
    one.unix_millis = kNow;
    return one;
  };
  const auto now = [this](const std::vector<protocols::Signed>& documents,
                          const std::vector<Said>& words) {
    return StandingOf(policy_, key_, plaintext_, documents, words, kNow);
  };
  const Said yes = said("carol", 1001, Decision::kRelease);
  EXPECT_EQ(now({}, {yes}).released, 1u);
  EXPECT_EQ(now({}, {yes, yes}).released, 1u);
  EXPECT_EQ(now({}, {yes, said("dave", 1002, Decision::kRelease)}).released, 2u);
  EXPECT_EQ(now({Sign(Alice(), Of("alice"))}, {yes}).released, 2u);
  EXPECT_EQ(now({Sign(Alice(), Of("alice"))}, {yes}).releases.size(), 1u);
  // Another user under her name, a user that policy does not name, other bytes, too long ago.
  EXPECT_EQ(now({}, {said("carol", 1002, Decision::kRelease)}).released, 0u);
  EXPECT_EQ(now({}, {said("eve", 1003, Decision::kRelease)}).released, 0u);
  Said other = yes;
  other.leaf.plaintext[0] ^= 1;
  EXPECT_EQ(now({}, {other}).released, 0u);
  Said old = yes;
  old.unix_millis = kNow - 73 * kHour;
  EXPECT_EQ(now({}, {old}).released, 0u);
  const Standing refused = now({}, {yes, said("carol", 1001, Decision::kRefuse)});
  EXPECT_EQ(refused.released, 0u);
  ASSERT_TRUE(refused.refusal.has_value());
  EXPECT_EQ(refused.refusal->approver, "carol");
  EXPECT_EQ(refused.refusal->reason, "because");
  EXPECT_FALSE(now({}, {said("carol", 1001, Decision::kRefuse), yes}).refusal.has_value());
}

TEST_F(ApprovalTest, HoldsWhatPolicySays) {
  EXPECT_TRUE(Holds(policy_, 5));
  const Policy first = *ParsePolicy(PolicyText("first", 1), "policy.toml");
  EXPECT_TRUE(Holds(first, 0));
  EXPECT_FALSE(Holds(first, 1));
  EXPECT_FALSE(Holds(SamplePolicy(), 0));
}

TEST(ApprovalPolicy, MistakesAreNamed) {
  const std::string key = Alice().verify_key().ToText();
  const std::pair<std::string, const char*> bad[] = {
      {"[approval]\nhold = \"always\"\n", "nothing could be released"},
      {"[approval]\nhold = \"first\"\nneeded = 2\napprovers = { alice = \"" + key + "\" }\n",
       "approvers has 1"},
      {"[approval]\nhold = \"sometimes\"\n", "never, first"},
      {"[approval]\nneeded = 0\n", "needed"},
      {"[approval]\neyes = 4\n", "hold, needed, expires_hours, approvers"},
      {"[approval]\napprovers = [\"x\"]\n", "must be a table"},
      {"[approval]\napprovers = { alice = \"ed25519:AA\" }\n", "alice"},
      {"[approval]\napprovers = { alice = \"uid:0\" }\n", "above 0"},
      {"[approval]\napprovers = { \"José\" = \"uid:12\" }\n", "printable ASCII"},
      {"[approval]\napprovers = { \"\" = \"uid:12\" }\n", "printable ASCII"},
      {"[approval]\napprovers = { alice = \"uid:12x\" }\n", "above 0"},
      {"[approval]\napprovers = { alice = \"uid:12\", bob = \"uid:12\" }\n", "same user"},
      {"[approval]\napprovers = { alice = \"" + key + "\", bob = \"" + key + "\" }\n",
       "have the same key"}};
  for (const auto& [text, why] : bad) {
    const auto policy = ParsePolicy(SamplePolicyText() + text, "policy.toml");
    ASSERT_FALSE(policy.has_value()) << text;
    EXPECT_NE(policy.error().message().find(why), std::string::npos) << policy.error().message();
  }
}

}  // namespace
}  // namespace tidegate::gate
