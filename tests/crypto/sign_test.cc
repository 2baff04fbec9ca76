// Ed25519: known answers, purposes kept apart, and the signatures and keys that must not pass.
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

TEST(Ed25519, MatchesRfc8032) {
  const struct {
    std::string_view seed, key, message, signature;
  } cases[] = {
      {"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
       "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
       "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701c"
       "f9b46bd25bf5f0595bbe24655141438e7a100b"},
      {"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
       "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
       "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0"
       "f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
      {"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
       "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
       "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f76098"
       "4dc6594a7c15e9716ed28dc027beceea1ec40a"},
  };
  for (const auto& c : cases) {
    const SigningKey key = KeyOf(c.seed);
    EXPECT_EQ(ToHex(key.verify_key().bytes()), c.key);
    const auto signature = internal::BareEd25519::Sign(key, Hex(c.message));
    ASSERT_TRUE(signature);
    EXPECT_EQ(ToHex(*signature), c.signature);
    EXPECT_TRUE(
        internal::BareEd25519::Verify(key.verify_key(), Hex(c.message), Hex(c.signature)).ok());
  }
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
}

TEST(Ed25519, ANonCanonicalSIsRefused) {
  const SigningKey key = TestKey();
  const auto signature = key.Sign(domains::kRound, AsBytes("round 7"));
  ASSERT_TRUE(signature);
  // S + L satisfies the equation too; accepting it would make signatures malleable.
  const Bytes order = Hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
  Signature bad = *signature;
  unsigned carry = 0;
  for (size_t i = 0; i < 32; ++i) {
    carry += bad[32 + i] + order[i];
    bad[32 + i] = static_cast<uint8_t>(carry);
    carry >>= 8;
  }
  ASSERT_EQ(carry, 0u);
  EXPECT_EQ(key.verify_key().Verify(domains::kRound, AsBytes("round 7"), bad).code(),
            Code::kUnauthenticated);
}

TEST(Ed25519, KeysOfSmallOrderOrNotReducedAreRefused) {
  const std::string_view keys[] = {
      "0100000000000000000000000000000000000000000000000000000000000000",  // order 1
      "0100000000000000000000000000000000000000000000000000000000000080",
      "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  // order 2
      "0000000000000000000000000000000000000000000000000000000000000000",  // order 4
      "0000000000000000000000000000000000000000000000000000000000000080",
      "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  // order 8
      "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
      "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
      "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
      "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  // p
      "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  // p + 1
      "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",  // p + 3
  };
  for (const std::string_view key : keys) {
    const auto made = VerifyKey::FromBytes(Hex(key));
    ASSERT_FALSE(made) << key;
    EXPECT_EQ(made.error().code(), Code::kInvalidArgument);
  }
  EXPECT_FALSE(VerifyKey::FromBytes(Bytes(31, 9)));
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
