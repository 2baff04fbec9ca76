#include "crypto/aead.h"

#include "crypto/gcm.h"
#include "crypto/kdf.h"
#include "crypto/random.h"

namespace tidegate::crypto {

namespace {

constexpr uint64_t kMostMessages = uint64_t{1} << 32;
constexpr std::string_view kInfo = "tidegate/v1/aead";

internal::GcmNonce NonceOf(uint64_t number) {
  internal::GcmNonce nonce{};
  for (size_t i = 0; i < 8; ++i) nonce[11 - i] = static_cast<uint8_t>(number >> (8 * i));
  return nonce;
}

Result<std::unique_ptr<internal::Gcm>> MakeGcm(const Secret<32>& key, ByteSpan salt,
                                               internal::Gcm::Direction direction) {
  const Secret<32> own = DeriveKey(salt, key.reveal(), AsBytes(kInfo));
  TG_ASSIGN_OR_RETURN(internal::Gcm gcm, internal::Gcm::Create(own.reveal(), direction));
  return std::make_unique<internal::Gcm>(std::move(gcm));
}

Status CheckNumber(uint64_t next) {
  if (next < kMostMessages) return OkStatus();
  return ResourceExhausted("{} messages went under one key; make a new sealer", kMostMessages);
}

}  // namespace

AeadSealer::AeadSealer() = default;
AeadSealer::AeadSealer(AeadSealer&&) noexcept = default;
AeadSealer& AeadSealer::operator=(AeadSealer&&) noexcept = default;
AeadSealer::~AeadSealer() = default;
AeadOpener::AeadOpener() = default;
AeadOpener::AeadOpener(AeadOpener&&) noexcept = default;
AeadOpener& AeadOpener::operator=(AeadOpener&&) noexcept = default;
AeadOpener::~AeadOpener() = default;

Result<AeadSealer> AeadSealer::Create(const Secret<32>& key) {
  AeadSealer sealer;
  TG_RETURN_IF_ERROR(FillRandom(sealer.salt_));
  TG_ASSIGN_OR_RETURN(sealer.gcm_, MakeGcm(key, sealer.salt_, internal::Gcm::Direction::kSeal));
  return sealer;
}

Result<Bytes> AeadSealer::Seal(ByteSpan aad, ByteSpan plaintext) {
  TG_RETURN_IF_ERROR(CheckNumber(next_));
  Bytes out(plaintext.size() + internal::kGcmTagBytes);
  std::copy(plaintext.begin(), plaintext.end(), out.begin());
  // Counted before use: a failed call burns its number.
  TG_RETURN_IF_ERROR(gcm_->SealInPlace(NonceOf(next_++), aad, out, nullptr));
  return out;
}

Result<AeadOpener> AeadOpener::Create(const Secret<32>& key, ByteSpan salt) {
  if (salt.size() != kAeadSaltBytes) {
    return InvalidArgument("the salt has {} bytes, it must have {}", salt.size(), kAeadSaltBytes);
  }
  AeadOpener opener;
  TG_ASSIGN_OR_RETURN(opener.gcm_, MakeGcm(key, salt, internal::Gcm::Direction::kOpen));
  return opener;
}

Result<Bytes> AeadOpener::Open(ByteSpan aad, ByteSpan sealed) {
  TG_RETURN_IF_ERROR(CheckNumber(next_));
  Bytes out(sealed.size() - std::min(sealed.size(), internal::kGcmTagBytes));
  TG_RETURN_IF_ERROR(gcm_->Open(NonceOf(next_), aad, sealed, out.data()));
  ++next_;
  return out;
}

}  // namespace tidegate::crypto
