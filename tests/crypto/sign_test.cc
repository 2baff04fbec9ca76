// Ed25519: purposes kept apart, and what else is not a signature. Known answers and edges:
// edge_cases_test.cc.
#include "crypto/sign.h"

#include "crypto/sign_internal.h"
#include "hex.h"

namespace tidegate::crypto {
namespace {

SigningKey KeyOf(std::string_view seed_hex) {
  auto seed = MakeSecret<32>(Hex(seed_hex), "seed");
  auto key = SigningKey::FromSeed(*seed);
  return std::move(*key);
}

SigningKey TestKey() {
  return KeyOf("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
}

TEST(Ed25519, ASignatureIsGoodForItsPurposeAlone) {
  const SigningKey key = TestKey();
  const auto signature = key.Sign(domains::kJob, AsBytes("payload"));
  ASSERT_TRUE(signature);
  EXPECT_TRUE(key.verify_key().Verify(domains::kJob, AsBytes("payload"), *signature).ok());
  EXPECT_EQ(key.verify_key().Verify(domains::kReceipt, AsBytes("payload"), *signature).code(),
            Code::kUnauthenticated);
  // What is signed is the domain, 0x00 and the payload.
  Bytes message(domains::kJob.name().begin(), domains::kJob.name().end());
  message.push_back(0);
  for (const char c : std::string_view("payload")) message.push_back(static_cast<uint8_t>(c));
  EXPECT_TRUE(internal::BareEd25519::Verify(key.verify_key(), message, *signature).ok());
  // And no note text, so one can't be passed off as the other.
  EXPECT_EQ(key.SignNoteText(AsText(message)).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(key.SignNoteText("no newline at the end").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(key.verify_key().VerifyNoteText(AsText(message), *signature).code(),
            Code::kInvalidArgument);
}

TEST(Ed25519, EveryFlippedBitOfASignatureIsRefused) {
  const SigningKey key = TestKey();
  const auto signature = key.Sign(domains::kRound, AsBytes("round 7"));
  ASSERT_TRUE(signature);
  for (size_t i = 0; i < signature->size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      Signature bad = *signature;
      bad[i] ^= static_cast<uint8_t>(1u << bit);
      EXPECT_EQ(key.verify_key().Verify(domains::kRound, AsBytes("round 7"), bad).code(),
                Code::kUnauthenticated)
          << "byte " << i << " bit " << bit;
    }
  }
}

TEST(Ed25519, OtherLengthsKeysAndMessagesAreRefused) {
  const SigningKey key = TestKey();
  const auto other = SigningKey::Generate();
  const auto signature = key.Sign(domains::kRound, AsBytes("round 7"));
  ASSERT_TRUE(other && signature);
  const ByteSpan whole(*signature);
  Bytes longer(whole.begin(), whole.end());
  longer.push_back(0);
  const auto verify = [&](const VerifyKey& by, std::string_view text, ByteSpan s) {
    return by.Verify(domains::kRound, AsBytes(text), s).code();
  };
  EXPECT_EQ(verify(key.verify_key(), "round 7", whole), Code::kOk);
  EXPECT_EQ(verify(key.verify_key(), "round 7", whole.first(63)), Code::kUnauthenticated);
  EXPECT_EQ(verify(key.verify_key(), "round 7", {}), Code::kUnauthenticated);
  EXPECT_EQ(verify(key.verify_key(), "round 7", longer), Code::kUnauthenticated);
  EXPECT_EQ(verify(key.verify_key(), "round 8", whole), Code::kUnauthenticated);
  EXPECT_EQ(verify(key.verify_key(), "", whole), Code::kUnauthenticated);
  EXPECT_EQ(verify(other->verify_key(), "round 7", whole), Code::kUnauthenticated);
  EXPECT_FALSE(VerifyKey::FromBytes(Bytes(31, 9)));
  EXPECT_FALSE(VerifyKey::FromBytes(Bytes(33, 9)));
}

TEST(Ed25519, PublicKeysHaveOneText) {
  const VerifyKey key = TestKey().verify_key();
  EXPECT_EQ(key.ToText(), "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
  const auto again = VerifyKey::FromText(key.ToText());
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, key);
  for (const std::string_view bad :
       {"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURp=",
        "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n", "ed25519:", ""}) {
    const auto made = VerifyKey::FromText(bad);
    EXPECT_FALSE(made) << bad;
  }
}

}  // namespace
}  // namespace tidegate::crypto
