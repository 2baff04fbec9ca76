#include "crypto/gcm.h"

#include "crypto/evp.h"

namespace tidegate::crypto::internal {

namespace {

// Small enough that SHA-256 finds the ciphertext in the first-level cache, large enough that the
// cost of a call does not show; also keeps every length within OpenSSL's int.
constexpr size_t kStepBytes = 16 * 1024;
// SP 800-38D: 2^36 - 32 bytes under one nonce.
constexpr uint64_t kMostBytes = (uint64_t{1} << 36) - 32;

}  // namespace

void Gcm::Deleter::operator()(evp_cipher_ctx_st* ctx) const { EVP_CIPHER_CTX_free(ctx); }
Gcm::Gcm(Gcm&&) noexcept = default;
Gcm& Gcm::operator=(Gcm&&) noexcept = default;
Gcm::~Gcm() = default;

Result<Gcm> Gcm::Create(ByteSpan key, Direction direction) {
  if (key.size() != 16 && key.size() != 32) {
    return InvalidArgument("an AES-GCM key has 16 or 32 bytes, this one has {}", key.size());
  }
  const EVP_CIPHER* cipher = key.size() == 16 ? EVP_aes_128_gcm() : EVP_aes_256_gcm();
  Gcm gcm;
  gcm.ctx_.reset(EVP_CIPHER_CTX_new());
  if (!gcm.ctx_ || EVP_CipherInit_ex(gcm.ctx_.get(), cipher, nullptr, key.data(), nullptr,
                                     direction == Direction::kSeal ? 1 : 0) != 1) {
    return LibraryFailure("setting up AES-GCM");
  }
  return gcm;
}

Status Gcm::Begin(const GcmNonce& nonce, ByteSpan aad) {
  if (EVP_CipherInit_ex(ctx_.get(), nullptr, nullptr, nullptr, nonce.data(), -1) != 1) {
    return LibraryFailure("starting AES-GCM");
  }
  while (!aad.empty()) {
    const size_t n = std::min(aad.size(), kStepBytes);
    int done = 0;
    if (EVP_CipherUpdate(ctx_.get(), nullptr, &done, aad.data(), static_cast<int>(n)) != 1) {
      return LibraryFailure("AES-GCM");
    }
    aad = aad.subspan(n);
  }
  return OkStatus();
}

Status Gcm::SealInPlace(const GcmNonce& nonce, ByteSpan aad, std::span<uint8_t> buffer,
                        Sha256* hash) {
  if (buffer.size() < kGcmTagBytes || buffer.size() - kGcmTagBytes > kMostBytes) {
    return InvalidArgument("AES-GCM seals at most {} bytes at once", kMostBytes);
  }
  TG_RETURN_IF_ERROR(Begin(nonce, aad));
  uint8_t* data = buffer.data();
  size_t left = buffer.size() - kGcmTagBytes;
  int done = 0;
  while (left > 0) {
    const size_t n = std::min(left, kStepBytes);
    if (EVP_CipherUpdate(ctx_.get(), data, &done, data, static_cast<int>(n)) != 1) {
      return LibraryFailure("AES-GCM");
    }
    if (hash != nullptr) hash->Update({data, n});
    data += n;
    left -= n;
  }
  if (EVP_CipherFinal_ex(ctx_.get(), data, &done) != 1 ||
      EVP_CIPHER_CTX_ctrl(ctx_.get(), EVP_CTRL_AEAD_GET_TAG, kGcmTagBytes, data) != 1) {
    return LibraryFailure("finishing AES-GCM");
  }
  if (hash != nullptr) hash->Update({data, kGcmTagBytes});
  return OkStatus();
}

Status Gcm::Open(const GcmNonce& nonce, ByteSpan aad, ByteSpan sealed, uint8_t* out) {
  if (sealed.size() < kGcmTagBytes || sealed.size() - kGcmTagBytes > kMostBytes) {
    return Unauthenticated("{} bytes cannot be an AES-GCM ciphertext with its tag", sealed.size());
  }
  TG_RETURN_IF_ERROR(Begin(nonce, aad));
  const size_t size = sealed.size() - kGcmTagBytes;
  int done = 0;
  for (size_t at = 0; at < size;) {
    const size_t n = std::min(size - at, kStepBytes);
    if (EVP_CipherUpdate(ctx_.get(), out + at, &done, sealed.data() + at, static_cast<int>(n)) !=
        1) {
      Cleanse(out, size);
      return LibraryFailure("AES-GCM");
    }
    at += n;
  }
  // OpenSSL wants the tag as a mutable pointer and only reads it.
  std::array<uint8_t, kGcmTagBytes> tag;
  std::copy_n(sealed.end() - kGcmTagBytes, kGcmTagBytes, tag.begin());
  uint8_t nothing[kGcmTagBytes];
  if (EVP_CIPHER_CTX_ctrl(ctx_.get(), EVP_CTRL_AEAD_SET_TAG, kGcmTagBytes, tag.data()) != 1 ||
      EVP_CipherFinal_ex(ctx_.get(), nothing, &done) != 1) {
    Cleanse(out, size);
    DropLibraryErrors();
    return Unauthenticated("the ciphertext or its associated data was altered (AES-GCM tag)");
  }
  return OkStatus();
}

}  // namespace tidegate::crypto::internal
