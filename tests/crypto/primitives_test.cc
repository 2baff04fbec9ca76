// Known answers for hashing, key derivation and X25519.
#include <set>

#include "crypto/agree.h"
#include "crypto/kdf.h"
#include "crypto/random.h"
#include "hex.h"

namespace tidegate::crypto {
namespace {

TEST(Secret, EqualComparesContentAndLength) {
  EXPECT_TRUE(Equal(Hex("0102"), Hex("0102")));
  EXPECT_TRUE(Equal({}, {}));
  EXPECT_FALSE(Equal(Hex("0102"), Hex("0103")));
  EXPECT_FALSE(Equal(Hex("0102"), Hex("8102")));
  EXPECT_FALSE(Equal(Hex("0102"), Hex("01")));
}

TEST(Secret, OfAnotherLengthIsRefusedByName) {
  const auto made = MakeSecret<32>(Hex("00"), "the site key");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Code::kInvalidArgument);
  EXPECT_NE(made.error().message().find("the site key has 1 bytes"), std::string::npos);
}

TEST(Random, NeverRepeatsAndFillsEverything) {
  std::set<std::string> seen;
  std::array<bool, 32> byte_was_set{};
  for (int i = 0; i < 100; ++i) {
    const auto secret = RandomSecret<32>();
    ASSERT_TRUE(secret);
    seen.insert(ToHex(secret->reveal()));
    for (size_t k = 0; k < 32; ++k) byte_was_set[k] |= secret->reveal()[k] != 0;
  }
  EXPECT_EQ(seen.size(), 100u);
  for (const bool set : byte_was_set) EXPECT_TRUE(set);
}

TEST(Sha256, MatchesFips180) {
  EXPECT_EQ(ToHex(Sha256::Of(ByteSpan())),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(ToHex(Sha256::Of(AsBytes("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 million;
  for (int i = 0; i < 1000; ++i) million.Update(Filled(1000, 'a'));
  EXPECT_EQ(ToHex(million.Finish()),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  // Ready for the next message, and parts are one message.
  million.Update(AsBytes("a")).Update(AsBytes("bc"));
  EXPECT_EQ(million.Finish(), Sha256::Of(AsBytes("abc")));
  EXPECT_EQ(Sha256::Of({AsBytes("ab"), AsBytes("c")}), Sha256::Of(AsBytes("abc")));
}

TEST(Hmac, MatchesRfc4231) {
  EXPECT_EQ(ToHex(HmacSha256(Filled(20, 0x0b), AsBytes("Hi There")).reveal()),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(ToHex(HmacSha256(AsBytes("Jefe"), AsBytes("what do ya want for nothing?")).reveal()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  // An empty key is the empty key, not the last one used.
  EXPECT_EQ(ToHex(HmacSha256({}, {}).reveal()),
            "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

struct HkdfCase {
  Bytes ikm, salt, info;
  size_t length;
  std::string_view prk, okm;
};

TEST(Hkdf, MatchesRfc5869) {
  const HkdfCase cases[] = {
      {Filled(22, 0x0b), Counting(13, 0), Counting(10, 0xf0), 42,
       "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
       "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"},
      {Counting(80, 0), Counting(80, 0x60), Counting(80, 0xb0), 82,
       "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
       "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e"
       "590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"},
      {Filled(22, 0x0b),
       {},
       {},
       42,
       "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
       "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"},
  };
  for (const HkdfCase& c : cases) {
    const Secret<32> prk = HkdfExtract(c.salt, c.ikm);
    EXPECT_EQ(ToHex(prk.reveal()), c.prk);
    const auto okm = HkdfExpand(prk.reveal(), c.info, c.length);
    ASSERT_TRUE(okm);
    EXPECT_EQ(ToHex(okm->reveal()), c.okm);
    EXPECT_EQ(ToHex(DeriveKey(c.salt, c.ikm, c.info).reveal()), c.okm.substr(0, 64));
  }
}

TEST(Hkdf, GivesAtMost255Blocks) {
  const Secret<32> prk = HkdfExtract({}, AsBytes("key"));
  EXPECT_TRUE(HkdfExpand(prk.reveal(), {}, kHkdfMaxBytes));
  EXPECT_EQ(HkdfExpand(prk.reveal(), {}, 0)->size(), 0u);
  const auto more = HkdfExpand(prk.reveal(), {}, kHkdfMaxBytes + 1);
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code(), Code::kInvalidArgument);
}

TEST(X25519, MatchesRfc7748) {
  const auto one = AgreeSecretKey::FromBytes(
      Hex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"));
  const auto point = AgreePublicKey::FromBytes(
      Hex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"));
  ASSERT_TRUE(one && point);
  EXPECT_EQ(ToHex(one->Agree(*point)->reveal()),
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
  // The second has bit 255 of u set, which counts for nothing.
  const auto two = AgreeSecretKey::FromBytes(
      Hex("4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d"));
  const auto high = AgreePublicKey::FromBytes(
      Hex("e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493"));
  ASSERT_TRUE(two && high);
  EXPECT_EQ(ToHex(two->Agree(*high)->reveal()),
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957");

  const auto alice = AgreeSecretKey::FromBytes(
      Hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
  const auto bob = AgreeSecretKey::FromBytes(
      Hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
  ASSERT_TRUE(alice && bob);
  EXPECT_EQ(ToHex(alice->public_key().bytes()),
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
  EXPECT_EQ(ToHex(bob->public_key().bytes()),
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
  constexpr std::string_view kShared =
      "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
  EXPECT_EQ(ToHex(alice->Agree(bob->public_key())->reveal()), kShared);
  EXPECT_EQ(ToHex(bob->Agree(alice->public_key())->reveal()), kShared);
}

// RFC 7748, section 5.2: k and u are k(k, u) and the k before, a thousand times.
TEST(X25519, MatchesTheThousandIterationsOfRfc7748) {
  Bytes k(32), u;
  k[0] = 9;
  u = k;
  for (int i = 1; i <= 1000; ++i) {
    const auto secret = AgreeSecretKey::FromBytes(k);
    const auto point = AgreePublicKey::FromBytes(u);
    ASSERT_TRUE(secret && point);
    const auto result = secret->Agree(*point);
    ASSERT_TRUE(result);
    u = k;
    k.assign(result->reveal().begin(), result->reveal().end());
    if (i == 1) {
      EXPECT_EQ(ToHex(k), "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
    }
  }
  EXPECT_EQ(ToHex(k), "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51");
}

TEST(X25519, AStoredKeyComesBack) {
  const auto key = AgreeSecretKey::Generate();
  ASSERT_TRUE(key);
  const auto again = AgreeSecretKey::FromBytes(key->Serialize().reveal());
  ASSERT_TRUE(again);
  EXPECT_EQ(again->public_key(), key->public_key());
}

TEST(X25519, KeysOfAnotherLengthAreRefused) {
  EXPECT_FALSE(AgreePublicKey::FromBytes(Bytes(31)));
  EXPECT_FALSE(AgreePublicKey::FromBytes(Bytes(33)));
  EXPECT_FALSE(AgreeSecretKey::FromBytes(Bytes(31)));
}

}  // namespace
}  // namespace tidegate::crypto
