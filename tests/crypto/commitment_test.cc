// AES-GCM commits to nothing: whoever has two keys makes one ciphertext that both open. The
// commitment in the signed manifest is what lets one recipient alone take a body.
#include "crypto/gcm.h"
#include "crypto/hpke_internal.h"
#include "crypto/seal.h"
#include "hex.h"

namespace tidegate::crypto {
namespace {

// GF(2^128) as GCM has it: bit 0 of a polynomial is the highest bit of byte 0.
struct Field {
  uint64_t high = 0, low = 0;
  friend Field operator+(Field a, Field b) { return {a.high ^ b.high, a.low ^ b.low}; }
  friend Field operator*(Field a, Field b) {
    Field product;
    for (int i = 0; i < 128; ++i) {
      if ((i < 64 ? a.high >> (63 - i) : a.low >> (127 - i)) & 1) product = product + b;
      const bool carry = b.low & 1;
      b.low = b.low >> 1 | b.high << 63;
      b.high = b.high >> 1 ^ (carry ? 0xe100000000000000 : 0);
    }
    return product;
  }
  // a^(2^128 - 2)
  Field Inverse() const {
    Field square = *this, out{0x8000000000000000, 0};
    for (int i = 1; i < 128; ++i) {
      square = square * square;
      out = out * square;
    }
    return out;
  }
};

Field Load(ByteSpan bytes) {
  Field out;
  for (size_t i = 0; i < 8; ++i) {
    out.high = out.high << 8 | bytes[i];
    out.low = out.low << 8 | bytes[8 + i];
  }
  return out;
}

void Store(Field field, uint8_t* out) {
  for (size_t i = 0; i < 8; ++i) {
    out[i] = static_cast<uint8_t>(field.high >> (56 - 8 * i));
    out[8 + i] = static_cast<uint8_t>(field.low >> (56 - 8 * i));
  }
}

// What GCM makes of a key at the nonce of the first and last chunk.
struct Parts {
  Field mask, hash;  // E(J0) and H
};
Parts PartsOf(ByteSpan key, const internal::GcmNonce& nonce) {
  auto gcm = internal::Gcm::Create(key, internal::Gcm::Direction::kSeal);
  EXPECT_TRUE(gcm);
  Bytes tag(16);
  EXPECT_TRUE(gcm->SealInPlace(nonce, {}, tag, nullptr).ok());
  Parts parts;
  parts.mask = Load(tag);  // of nothing: GHASH is zero
  EXPECT_TRUE(gcm->SealInPlace(nonce, Bytes(16), tag, nullptr).ok());
  // One zero block of associated data: GHASH is (length of 128 bits) * H.
  parts.hash = (Load(tag) + parts.mask) * Field{128, 0}.Inverse();
  return parts;
}

// What src/crypto/seal_suite.cc derives, from a sender who kept its ephemeral key.
struct Derived {
  SecretBytes key;
  Digest commitment{};
  HpkeEnc enc{};
};
Derived DeriveFor(const AgreePublicKey& recipient, const AgreeSecretKey& ephemeral) {
  const auto concat = [](std::string_view label, ByteSpan tail) {
    Bytes out(label.begin(), label.end());
    out.insert(out.end(), tail.begin(), tail.end());
    return out;
  };
  const Digest aad_hash = Sha256::Of(ByteSpan());
  auto setup =
      internal::SetupSenderWith(internal::HpkeAead::kAes256Gcm, recipient,
                                concat("tidegate/v1/seal/TG1\n", AsBytes("info")), ephemeral);
  EXPECT_TRUE(setup);
  Derived out;
  out.enc = setup->enc;
  out.key = std::move(*setup->context.Export(concat("tidegate/v1/seal key\n", aad_hash), 32));
  const auto commitment =
      setup->context.Export(concat("tidegate/v1/seal commitment\n", aad_hash), 32);
  std::copy_n(commitment->reveal().begin(), 32, out.commitment.begin());
  return out;
}

TEST(Commitment, OneCiphertextThatTwoKeysOpenIsForOneRecipientAlone) {
  const auto north = AgreeSecretKey::Generate();
  const auto south = AgreeSecretKey::Generate();
  const auto ephemeral = AgreeSecretKey::Generate();
  ASSERT_TRUE(north && south && ephemeral);
  const Derived a = DeriveFor(north->public_key(), *ephemeral);
  const Derived b = DeriveFor(south->public_key(), *ephemeral);
  ASSERT_EQ(a.enc, b.enc);

  // A bucket of zeros with its length, sealed to north as ours would be; then one block of it is
  // set so that the tag is the same under both keys.
  internal::GcmNonce nonce{};
  nonce[11] = 1;
  Bytes chunk(64 * 1024 + kSealTagBytes);
  auto gcm = internal::Gcm::Create(a.key.reveal(), internal::Gcm::Direction::kSeal);
  ASSERT_TRUE(gcm && gcm->SealInPlace(nonce, {}, chunk, nullptr).ok());
  const size_t blocks = 64 * 1024 / 16;
  const Parts pa = PartsOf(a.key.reveal(), nonce), pb = PartsOf(b.key.reveal(), nonce);
  const auto tag_without_last = [&](const Parts& p) {
    Field ghash;
    for (size_t i = 0; i < blocks; ++i) {
      const Field block = i + 1 == blocks ? Field{} : Load(ByteSpan(chunk).subspan(16 * i, 16));
      ghash = (ghash + block) * p.hash;
    }
    return (ghash + Field{0, 64 * 1024 * 8}) * p.hash + p.mask;
  };
  const Field ta = tag_without_last(pa), tb = tag_without_last(pb);
  const Field last = (ta + tb) * (pa.hash * pa.hash + pb.hash * pb.hash).Inverse();
  Store(last, chunk.data() + 16 * (blocks - 1));
  Store(ta + last * pa.hash * pa.hash, chunk.data() + 64 * 1024);

  // AES-GCM is content with either.
  const auto opens = [&](const AgreeSecretKey& key) {
    const auto session = FindSuite(Suite::kTg1).Resume(a.enc, key, AsBytes("info"), {});
    return session && session->cipher->Open(0, true, chunk).has_value();
  };
  ASSERT_TRUE(opens(*north));
  ASSERT_TRUE(opens(*south));

  // The header can hold the commitment to one of the keys.
  ASSERT_NE(a.commitment, b.commitment);
  SealHeader header;
  header.enc = a.enc;
  header.commitment = a.commitment;
  EXPECT_TRUE(BodyOpener::Start(header, *north, AsBytes("info"), {}));
  EXPECT_EQ(BodyOpener::Start(header, *south, AsBytes("info"), {}).error().code(),
            Code::kUnauthenticated);
}

// The flag of the last chunk is in the nonce: neither can be made the other.
TEST(Commitment, TheLastFlagCanNotBeMoved) {
  const auto key = AgreeSecretKey::Generate();
  ASSERT_TRUE(key);
  auto session = FindSuite(Suite::kTg1).Begin(key->public_key(), {}, {});
  ASSERT_TRUE(session);
  const auto opener = FindSuite(Suite::kTg1).Resume(session->enc, *key, {}, {});
  ASSERT_TRUE(opener);
  for (const bool last : {false, true}) {
    const uint64_t number = last ? 1 : 0;
    Bytes chunk(100);
    ASSERT_TRUE(session->cipher->Seal(number, last, chunk));
    EXPECT_FALSE(opener->cipher->Open(number, !last, chunk));
    EXPECT_FALSE(opener->cipher->Open(number + 1, last, chunk));
    EXPECT_FALSE(opener->cipher->Open(number + (uint64_t{1} << 32), last, chunk));
    EXPECT_TRUE(opener->cipher->Open(number, last, chunk));
  }
}

}  // namespace
}  // namespace tidegate::crypto
