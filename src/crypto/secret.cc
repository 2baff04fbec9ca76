#include "crypto/secret.h"

#include <openssl/crypto.h>

namespace tidegate::crypto {

void Cleanse(void* data, size_t size) {
  if (size != 0) OPENSSL_cleanse(data, size);
}

bool Equal(ByteSpan a, ByteSpan b) {
  if (a.size() != b.size()) return false;
  return a.empty() || CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

SecretBytes& SecretBytes::operator=(SecretBytes&& other) noexcept {
  if (this != &other) {
    Erase();
    bytes_ = std::move(other.bytes_);
  }
  return *this;
}

void SecretBytes::Erase() {
  bytes_.resize(bytes_.capacity());  // a buffer that was taken over may have held more
  Cleanse(bytes_.data(), bytes_.size());
  bytes_.clear();
}

}  // namespace tidegate::crypto
