// AES-GCM: the known answers of its specification (McGrew and Viega, test cases 13 to 16, for
// AES-256), and what must not open.
#include "crypto/gcm.h"

#include "hex.h"

namespace tidegate::crypto::internal {
namespace {

struct KnownAnswer {
  const char* name;
  std::string_view key, nonce, plain, aad, sealed;  // ciphertext and tag
};

constexpr std::string_view kZeroKey =
    "0000000000000000000000000000000000000000000000000000000000000000";
constexpr std::string_view kKey =
    "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
constexpr std::string_view kPlain =
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";

const KnownAnswer kKnownAnswers[] = {
    {"case 13: nothing", kZeroKey, "000000000000000000000000", "", "",
     "530f8afbc74536b9a963b4f1c4cb738b"},
    {"case 14: one block", kZeroKey, "000000000000000000000000", "00000000000000000000000000000000",
     "", "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"},
    {"case 15: four blocks", kKey, "cafebabefacedbaddecaf888", kPlain, "",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
     "b094dac5d93471bdec1a502270e3cc6c"},
    {"case 16: a part of a block, with associated data", kKey, "cafebabefacedbaddecaf888",
     kPlain.substr(0, 120), "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
     "76fc6ece0f4e1768cddf8853bb2d551b"},
};

Gcm Make(ByteSpan key, Gcm::Direction direction) {
  auto gcm = Gcm::Create(key, direction);
  EXPECT_TRUE(gcm);
  return std::move(*gcm);
}

GcmNonce NonceOf(std::string_view hex) {
  GcmNonce nonce;
  const Bytes bytes = Hex(hex);
  std::copy_n(bytes.begin(), nonce.size(), nonce.begin());
  return nonce;
}

Code Opened(const KnownAnswer& k, ByteSpan aad, ByteSpan sealed, Bytes* plain) {
  Gcm gcm = Make(Hex(k.key), Gcm::Direction::kOpen);
  plain->assign(sealed.size() - std::min(sealed.size(), kGcmTagBytes), 0xee);
  return gcm.Open(NonceOf(k.nonce), aad, sealed, plain->data()).code();
}

TEST(Gcm, MatchesItsSpecification) {
  for (const KnownAnswer& k : kKnownAnswers) {
    SCOPED_TRACE(k.name);
    Bytes buffer = Hex(k.plain);
    buffer.resize(buffer.size() + kGcmTagBytes);
    Sha256 hash;
    Gcm gcm = Make(Hex(k.key), Gcm::Direction::kSeal);
    ASSERT_TRUE(gcm.SealInPlace(NonceOf(k.nonce), Hex(k.aad), buffer, &hash).ok());
    EXPECT_EQ(ToHex(buffer), k.sealed);
    EXPECT_EQ(hash.Finish(), Sha256::Of(buffer));
    Bytes plain;
    EXPECT_EQ(Opened(k, Hex(k.aad), buffer, &plain), Code::kOk);
    EXPECT_EQ(ToHex(plain), k.plain);
  }
}

TEST(Gcm, AFlippedBitOfTagCiphertextOrAssociatedDataIsRefusedAndNothingIsGivenOut) {
  for (const KnownAnswer& k : kKnownAnswers) {
    SCOPED_TRACE(k.name);
    Bytes sealed = Hex(k.sealed), aad = Hex(k.aad), plain;
    for (Bytes* part : {&sealed, &aad}) {
      for (size_t bit = 0; bit < part->size() * 8; ++bit) {
        (*part)[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
        ASSERT_EQ(Opened(k, aad, sealed, &plain), Code::kUnauthenticated) << "bit " << bit;
        ASSERT_EQ(plain, Bytes(plain.size())) << "plaintext that was not verified is left";
        (*part)[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
      }
    }
    aad.push_back(0);
    EXPECT_EQ(Opened(k, aad, sealed, &plain), Code::kUnauthenticated) << "longer aad";
  }
}

// OpenSSL checks the first bytes of a tag alone when it is given fewer: we give it sixteen always.
TEST(Gcm, ATagCutShortIsRefusedAtEveryLength) {
  for (const KnownAnswer& k : kKnownAnswers) {
    SCOPED_TRACE(k.name);
    const Bytes sealed = Hex(k.sealed);
    Bytes plain;
    for (size_t cut = 1; cut <= kGcmTagBytes; ++cut) {
      EXPECT_EQ(Opened(k, Hex(k.aad), ByteSpan(sealed).first(sealed.size() - cut), &plain),
                Code::kUnauthenticated)
          << cut;
    }
    EXPECT_EQ(Opened(k, Hex(k.aad), {}, &plain), Code::kUnauthenticated);
  }
}

TEST(Gcm, AnotherKeyOrNonceIsRefused) {
  const KnownAnswer& k = kKnownAnswers[3];
  const Bytes sealed = Hex(k.sealed);
  Bytes plain;
  for (const std::string_view nonce : {"cafebabefacedbaddecaf889", "000000000000000000000000"}) {
    KnownAnswer other = k;
    other.nonce = nonce;
    EXPECT_EQ(Opened(other, Hex(k.aad), sealed, &plain), Code::kUnauthenticated);
  }
  KnownAnswer other = k;
  other.key = kZeroKey;
  EXPECT_EQ(Opened(other, Hex(k.aad), sealed, &plain), Code::kUnauthenticated);
  EXPECT_FALSE(Gcm::Create(Bytes(24), Gcm::Direction::kOpen)) << "AES-192 is not ours";
  EXPECT_FALSE(Gcm::Create({}, Gcm::Direction::kOpen));
}

// One refusal leaves nothing in the cipher that the next message would meet.
TEST(Gcm, OneCipherOpensTheNextMessageAfterARefusal) {
  const KnownAnswer& k = kKnownAnswers[3];
  Gcm gcm = Make(Hex(k.key), Gcm::Direction::kOpen);
  Bytes bad = Hex(k.sealed);
  bad.at(0) ^= 1;
  Bytes plain(bad.size() - kGcmTagBytes);
  EXPECT_FALSE(gcm.Open(NonceOf(k.nonce), Hex(k.aad), bad, plain.data()).ok());
  EXPECT_TRUE(gcm.Open(NonceOf(k.nonce), Hex(k.aad), Hex(k.sealed), plain.data()).ok());
  EXPECT_EQ(ToHex(plain), k.plain);
}

}  // namespace
}  // namespace tidegate::crypto::internal
