#include "crypto/hash.h"

#include <openssl/hmac.h>

#include "crypto/evp.h"

namespace tidegate::crypto {

using internal::Require;

void Sha256::Deleter::operator()(evp_md_ctx_st* ctx) const { EVP_MD_CTX_free(ctx); }

Sha256::Sha256() : ctx_(EVP_MD_CTX_new()) {
  Require(ctx_ != nullptr, "SHA-256");
  Restart();
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Restart() {
  Require(EVP_DigestInit_ex(ctx_.get(), EVP_sha256(), nullptr) == 1, "SHA-256");
}

Sha256& Sha256::Update(ByteSpan bytes) {
  Require(EVP_DigestUpdate(ctx_.get(), bytes.data(), bytes.size()) == 1, "SHA-256");
  return *this;
}

Digest Sha256::Finish() {
  Digest digest;
  Require(EVP_DigestFinal_ex(ctx_.get(), digest.data(), nullptr) == 1, "SHA-256");
  Restart();
  return digest;
}

Digest Sha256::Of(ByteSpan bytes) { return Sha256().Update(bytes).Finish(); }

Digest Sha256::Of(std::initializer_list<ByteSpan> parts) {
  Sha256 hash;
  for (const ByteSpan part : parts) hash.Update(part);
  return hash.Finish();
}

Secret<32> HmacSha256(ByteSpan key, ByteSpan message) {
  // HMAC() takes a null key for "the key of last time"; an empty key is a real one (HKDF).
  static constexpr uint8_t kEmpty[1] = {0};
  Secret<32> tag;
  unsigned size = 0;
  const uint8_t* out =
      HMAC(EVP_sha256(), key.empty() ? kEmpty : key.data(), static_cast<int>(key.size()),
           message.data(), message.size(), tag.reveal_mutable().data(), &size);
  Require(out != nullptr && size == 32, "HMAC-SHA-256");
  return tag;
}

}  // namespace tidegate::crypto
