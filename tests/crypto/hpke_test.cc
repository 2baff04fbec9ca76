// HPKE against the published vectors (tests/golden/hpke_vectors.py), and what must not open.
#include "crypto/hpke.h"

#include <fstream>
#include <map>
#include <sstream>

#include "crypto/hpke_internal.h"
#include "hex.h"

namespace tidegate::crypto {
namespace {

using internal::HpkeAead;
using Vector = std::map<std::string, std::string>;

// Blocks of "NAME VALUE" lines; a name may hold one space ("ct 255").
std::vector<Vector> ReadVectors() {
  std::ifstream in(TIDEGATE_SOURCE_DIR "/tests/crypto/hpke_vectors.txt");
  std::vector<Vector> vectors(1);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("#")) continue;
    if (line.empty()) {
      vectors.emplace_back();
      continue;
    }
    const size_t space = line.rfind(' ');
    vectors.back()[line.substr(0, space)] = line.substr(space + 1);
  }
  std::erase_if(vectors, [](const Vector& v) { return v.empty(); });
  return vectors;
}

class HpkeVectors : public ::testing::Test {
 protected:
  void SetUp() override {
    vectors_ = ReadVectors();
    ASSERT_EQ(vectors_.size(), 2u);
  }
  std::vector<Vector> vectors_;
};

TEST_F(HpkeVectors, SenderMakesThePublishedMessagesAndExports) {
  for (Vector& v : vectors_) {
    const auto aead = static_cast<HpkeAead>(std::stoi(v["aead"]));
    const auto ephemeral = AgreeSecretKey::FromBytes(Hex(v["skE"]));
    const auto recipient = AgreePublicKey::FromBytes(Hex(v["pkR"]));
    ASSERT_TRUE(ephemeral && recipient);
    auto setup = internal::SetupSenderWith(aead, *recipient, Hex(v["info"]), *ephemeral);
    ASSERT_TRUE(setup);
    EXPECT_EQ(ToHex(setup->enc), v["enc"]);
    int compared = 0;
    for (int i = 0; i <= 256; ++i) {
      const auto sealed =
          setup->context.Seal(AsBytes(fmt::format("Count-{}", i)), Hex(v["plaintext"]));
      ASSERT_TRUE(sealed);
      const auto published = v.find(fmt::format("ct {}", i));
      if (published == v.end()) continue;
      EXPECT_EQ(ToHex(*sealed), published->second) << "aead " << v["aead"] << " message " << i;
      ++compared;
    }
    EXPECT_EQ(compared, 6);
    for (const std::string name : {"", "00", "54657374436f6e74657874"}) {
      const auto exported = setup->context.Export(Hex(name), 32);
      ASSERT_TRUE(exported);
      EXPECT_EQ(ToHex(exported->reveal()), v["export " + (name.empty() ? "-" : name)]);
    }
  }
}

TEST_F(HpkeVectors, RecipientOpensThePublishedMessages) {
  for (Vector& v : vectors_) {
    const auto aead = static_cast<HpkeAead>(std::stoi(v["aead"]));
    const auto key = AgreeSecretKey::FromBytes(Hex(v["skR"]));
    ASSERT_TRUE(key);
    EXPECT_EQ(ToHex(key->public_key().bytes()), v["pkR"]);
    auto context = internal::SetupRecipientWith(aead, Hex(v["enc"]), *key, Hex(v["info"]));
    ASSERT_TRUE(context);
    for (const int i : {0, 1, 2}) {
      const auto plain =
          context->Open(AsBytes(fmt::format("Count-{}", i)), Hex(v[fmt::format("ct {}", i)]));
      ASSERT_TRUE(plain) << plain.error().message();
      EXPECT_EQ(ToHex(*plain), v["plaintext"]);
    }
    EXPECT_EQ(ToHex(context->Export({}, 32)->reveal()), v["export -"]);
  }
}

TEST_F(HpkeVectors, ThePublicSetupIsTheAes256Suite) {
  Vector& v = vectors_[1];
  ASSERT_EQ(v["aead"], "2");
  const auto key = AgreeSecretKey::FromBytes(Hex(v["skR"]));
  auto context = SetupRecipient(Hex(v["enc"]), *key, Hex(v["info"]));
  ASSERT_TRUE(context);
  const auto plain = context->Open(AsBytes("Count-0"), Hex(v["ct 0"]));
  ASSERT_TRUE(plain);
  EXPECT_EQ(ToHex(*plain), v["plaintext"]);
}

TEST(Hpke, TheNonceIsTheBaseNonceXorTheBigEndianNumber) {
  auto base = MakeSecret<12>(Counting(12, 0), "base");
  EXPECT_EQ(ToHex(internal::HpkeNonce(*base, 0)), "000102030405060708090a0b");
  EXPECT_EQ(ToHex(internal::HpkeNonce(*base, 0x0102030405060708)), "00010203050705030d0f0d03");
}

TEST(Hpke, WhatWasAlteredReorderedOrForAnotherDoesNotOpen) {
  const auto key = AgreeSecretKey::Generate();
  const auto stranger = AgreeSecretKey::Generate();
  ASSERT_TRUE(key && stranger);
  auto setup = SetupSender(key->public_key(), AsBytes("info"));
  ASSERT_TRUE(setup);
  const auto first = setup->context.Seal(AsBytes("aad"), AsBytes("first"));
  const auto second = setup->context.Seal(AsBytes("aad"), AsBytes("second"));
  ASSERT_TRUE(first && second);

  const auto opens = [&](const AgreeSecretKey& by, ByteSpan enc, std::string_view info,
                         std::string_view aad, ByteSpan sealed) {
    auto context = SetupRecipient(enc, by, AsBytes(info));
    return context && context->Open(AsBytes(aad), sealed).has_value();
  };
  EXPECT_TRUE(opens(*key, setup->enc, "info", "aad", *first));
  EXPECT_FALSE(opens(*key, setup->enc, "info", "aad", *second));
  EXPECT_FALSE(opens(*key, setup->enc, "other", "aad", *first));
  EXPECT_FALSE(opens(*key, setup->enc, "info", "bad", *first));
  EXPECT_FALSE(opens(*stranger, setup->enc, "info", "aad", *first));
  EXPECT_FALSE(opens(*key, Bytes(32), "info", "aad", *first));
  EXPECT_FALSE(opens(*key, Bytes(31, 1), "info", "aad", *first));
  EXPECT_FALSE(opens(*key, setup->enc, "info", "aad", ByteSpan(*first).first(15)));
  for (size_t i = 0; i < first->size(); ++i) {
    Bytes bad = *first;
    bad[i] ^= 0x10;
    EXPECT_FALSE(opens(*key, setup->enc, "info", "aad", bad)) << "byte " << i;
  }

  // A refused message does not use up its number; a message opens once.
  auto context = SetupRecipient(setup->enc, *key, AsBytes("info"));
  ASSERT_TRUE(context);
  EXPECT_FALSE(context->Open(AsBytes("aad"), *second));
  EXPECT_TRUE(context->Open(AsBytes("aad"), *first));
  EXPECT_FALSE(context->Open(AsBytes("aad"), *first));
  EXPECT_TRUE(context->Open(AsBytes("aad"), *second));
}

TEST(Hpke, BothEndsExportTheSameAndAtMost255Blocks) {
  const auto key = AgreeSecretKey::Generate();
  auto sender = SetupSender(key->public_key(), {});
  auto recipient = SetupRecipient(sender->enc, *key, {});
  ASSERT_TRUE(sender && recipient);
  const auto a = sender->context.Export(AsBytes("x"), 8160);
  const auto b = recipient->Export(AsBytes("x"), 8160);
  ASSERT_TRUE(a && b);
  EXPECT_TRUE(Equal(a->reveal(), b->reveal()));
  EXPECT_FALSE(Equal(a->reveal(), recipient->Export(AsBytes("y"), 8160)->reveal()));
  EXPECT_EQ(sender->context.Export({}, 8161).error().code(), Code::kInvalidArgument);
}

// X25519 takes `enc` with bit 255 set for the same point; the key depends on its bytes, so it is
// another key and nothing opens.
TEST(Hpke, AnotherEncodingOfTheSamePointIsAnotherExchange) {
  const auto key = AgreeSecretKey::Generate();
  auto setup = SetupSender(key->public_key(), {});
  ASSERT_TRUE(key && setup);
  const auto sealed = setup->context.Seal({}, AsBytes("text"));
  Bytes enc(setup->enc.begin(), setup->enc.end());
  ASSERT_TRUE(SetupRecipient(enc, *key, {})->Open({}, *sealed));
  enc[31] ^= 0x80;
  auto other = SetupRecipient(enc, *key, {});
  ASSERT_TRUE(other);
  EXPECT_EQ(other->Open({}, *sealed).error().code(), Code::kUnauthenticated);
  for (const size_t size : {0, 31, 33, 64}) {
    EXPECT_EQ(SetupRecipient(Bytes(size, 9), *key, {}).error().code(), Code::kInvalidArgument)
        << size;
  }
}

TEST(Hpke, TheSameTextTwiceIsTwoMessages) {
  const auto key = AgreeSecretKey::Generate();
  auto setup = SetupSender(key->public_key(), {});
  ASSERT_TRUE(key && setup);
  const auto first = setup->context.Seal({}, AsBytes("text"));
  const auto second = setup->context.Seal({}, AsBytes("text"));
  EXPECT_NE(*first, *second) << "a nonce was used again";
  // Nor does a second exchange with the same recipient share anything.
  auto again = SetupSender(key->public_key(), {});
  ASSERT_TRUE(again);
  EXPECT_NE(again->enc, setup->enc);
  EXPECT_FALSE(SetupRecipient(again->enc, *key, {})->Open({}, *first));
  EXPECT_TRUE(SetupRecipient(setup->enc, *key, {})->Open({}, *first));
}

}  // namespace
}  // namespace tidegate::crypto
