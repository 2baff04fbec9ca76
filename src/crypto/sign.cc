#include "crypto/sign.h"

#include "crypto/evp.h"
#include "crypto/hash.h"
#include "crypto/random.h"

namespace tidegate::crypto {

using internal::LibraryFailure;
using internal::MdCtxPtr;
using internal::PkeyPtr;

namespace {

Bytes DomainMessage(std::string_view domain, ByteSpan payload) {
  Bytes message;
  message.reserve(domain.size() + 1 + payload.size());
  message.insert(message.end(), domain.begin(), domain.end());
  message.push_back(0);
  message.insert(message.end(), payload.begin(), payload.end());
  return message;
}

Status CheckNoteText(std::string_view text) {
  if (text.empty() || text.back() != '\n') {
    return InvalidArgument("the text of a signed note must end in a newline");
  }
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if ((byte < 0x20 && c != '\n') || byte == 0x7f) {
      return InvalidArgument("the text of a signed note holds the control byte 0x{:02x}", byte);
    }
  }
  return OkStatus();
}

// y >= p = 2^255 - 19, the sign bit aside.
bool IsReduced(const std::array<uint8_t, 32>& bytes) {
  if ((bytes[31] & 0x7f) != 0x7f || bytes[0] < 0xed) return true;
  return !std::all_of(bytes.begin() + 1, bytes.end() - 1, [](uint8_t b) { return b == 0xff; });
}

// The y coordinates of the eight points whose order divides 8 (the sign bit aside).
constexpr std::string_view kSmallOrder[] = {
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
};

bool IsSmallOrder(std::array<uint8_t, 32> bytes) {
  bytes[31] &= 0x7f;
  return std::find(std::begin(kSmallOrder), std::end(kSmallOrder), ToHex(bytes)) !=
         std::end(kSmallOrder);
}

}  // namespace

std::string PublicKeyText(std::string_view prefix, ByteSpan bytes) {
  return fmt::format("{}:{}", prefix, ToBase64(bytes));
}

Result<VerifyKey> VerifyKey::FromBytes(ByteSpan bytes) {
  VerifyKey key;
  if (bytes.size() != key.bytes_.size()) {
    return InvalidArgument("an ed25519 public key has 32 bytes, this one has {}", bytes.size());
  }
  std::copy(bytes.begin(), bytes.end(), key.bytes_.begin());
  if (!IsReduced(key.bytes_) || IsSmallOrder(key.bytes_)) {
    return InvalidArgument(
        "the ed25519 public key {} is a point of small order or not in reduced form; no key "
        "generator makes it, do not trust its sender",
        key.ToText());
  }
  return key;
}

Result<VerifyKey> VerifyKey::FromText(std::string_view text) {
  constexpr std::string_view kHead = "ed25519:";
  if (!text.starts_with(kHead)) {
    return InvalidArgument("a public key of this kind is written \"{}BASE64\"", kHead);
  }
  const auto bytes = FromBase64(text.substr(kHead.size()));
  if (!bytes || bytes->size() != 32) {
    return InvalidArgument("the ed25519 public key is not the base64 of 32 bytes");
  }
  return FromBytes(*bytes);
}

std::string VerifyKey::ToText() const { return PublicKeyText("ed25519", bytes_); }

Digest VerifyKey::Fingerprint() const { return Sha256::Of(bytes_); }

Status VerifyKey::VerifyRaw(ByteSpan message, ByteSpan signature) const {
  const auto refuse = [this](std::string_view why) {
    internal::DropLibraryErrors();
    return Unauthenticated("the signature is not that of key {}: {}", ToText(), why);
  };
  if (signature.size() != kSignatureBytes) return refuse("its length is not 64 bytes");
  // RFC 8032 and OpenSSL let R be of small order, which no signer makes: such a signature gives the
  // secret key away, and so says nothing of who made it.
  std::array<uint8_t, 32> r;
  std::copy_n(signature.begin(), r.size(), r.begin());
  if (!IsReduced(r) || IsSmallOrder(r)) return refuse("its R is of small order or not reduced");
  const PkeyPtr key(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, bytes_.data(), bytes_.size()));
  const MdCtxPtr ctx(EVP_MD_CTX_new());
  if (!key || !ctx) return LibraryFailure("loading an ed25519 public key");
  if (EVP_DigestVerifyInit(ctx.get(), nullptr, nullptr, nullptr, key.get()) != 1) {
    return LibraryFailure("preparing to verify an ed25519 signature");
  }
  // 0 is "no"; a negative answer (a point that does not decode) is "no" as well.
  if (EVP_DigestVerify(ctx.get(), signature.data(), signature.size(), message.data(),
                       message.size()) != 1) {
    return refuse("another key, another purpose, or altered content");
  }
  return OkStatus();
}

Status VerifyKey::Verify(SignDomain domain, ByteSpan payload, ByteSpan signature) const {
  return VerifyRaw(DomainMessage(domain.name(), payload), signature);
}

Status VerifyKey::Verify(ReleaseDomain domain, ByteSpan payload, ByteSpan signature) const {
  return VerifyRaw(DomainMessage(domain.name(), payload), signature);
}

Status VerifyKey::VerifyNoteText(std::string_view text, ByteSpan signature) const {
  TG_RETURN_IF_ERROR(CheckNoteText(text));
  return VerifyRaw(AsBytes(text), signature);
}

Result<SigningKey> SigningKey::Generate() {
  TG_ASSIGN_OR_RETURN(const Secret<32> seed, RandomSecret<32>());
  return FromSeed(seed);
}

Result<SigningKey> SigningKey::FromSeed(const Secret<32>& seed) {
  SigningKey key;
  key.seed_ = seed.Clone();
  const PkeyPtr pkey(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, key.seed_.reveal().data(), 32));
  size_t size = key.verify_key_.bytes_.size();
  if (!pkey || EVP_PKEY_get_raw_public_key(pkey.get(), key.verify_key_.bytes_.data(), &size) != 1 ||
      size != 32) {
    return LibraryFailure("deriving an ed25519 public key");
  }
  return key;
}

Result<Signature> SigningKey::SignRaw(ByteSpan message) const {
  const PkeyPtr key(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, seed_.reveal().data(), 32));
  const MdCtxPtr ctx(EVP_MD_CTX_new());
  Signature signature;
  size_t size = signature.size();
  if (!key || !ctx || EVP_DigestSignInit(ctx.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestSign(ctx.get(), signature.data(), &size, message.data(), message.size()) != 1 ||
      size != signature.size()) {
    return LibraryFailure("making an ed25519 signature");
  }
  return signature;
}

Result<Signature> SigningKey::Sign(SignDomain domain, ByteSpan payload) const {
  return SignRaw(DomainMessage(domain.name(), payload));
}

Result<Signature> SigningKey::SignRelease(const permit::ReleasePass&, ByteSpan payload) const {
  return SignRaw(DomainMessage(domains::kRelease.name(), payload));
}

Result<Signature> SigningKey::SignNoteText(std::string_view text) const {
  TG_RETURN_IF_ERROR(CheckNoteText(text));
  return SignRaw(AsBytes(text));
}

}  // namespace tidegate::crypto
