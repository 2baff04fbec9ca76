// AES-256-GCM for a sequence of messages under a long-lived key, without nonces to get wrong: every
// Sealer draws a random 32-byte salt, derives a key of its own from it (HKDF-SHA-256) and numbers
// its messages. The opener is made from the same key and the salt and takes the messages in order.
// For one thread at a time.
#pragma once

#include <memory>

#include "crypto/secret.h"

namespace tidegate::crypto {

namespace internal {
class Gcm;
}

inline constexpr size_t kAeadOverheadBytes = 16;
inline constexpr size_t kAeadSaltBytes = 32;

class AeadSealer {
 public:
  static Result<AeadSealer> Create(const Secret<32>& key);
  AeadSealer(AeadSealer&&) noexcept;
  AeadSealer& operator=(AeadSealer&&) noexcept;
  ~AeadSealer();

  // Public; the opener needs it.
  ByteSpan salt() const { return salt_; }
  // Message number 0, 1, 2 ...; kResourceExhausted after 2^32 of them.
  Result<Bytes> Seal(ByteSpan aad, ByteSpan plaintext);

 private:
  AeadSealer();
  std::array<uint8_t, kAeadSaltBytes> salt_{};
  std::unique_ptr<internal::Gcm> gcm_;
  uint64_t next_ = 0;
};

class AeadOpener {
 public:
  static Result<AeadOpener> Create(const Secret<32>& key, ByteSpan salt);
  AeadOpener(AeadOpener&&) noexcept;
  AeadOpener& operator=(AeadOpener&&) noexcept;
  ~AeadOpener();

  // kUnauthenticated when this is not the next message; the number then stays.
  Result<Bytes> Open(ByteSpan aad, ByteSpan sealed);

 private:
  AeadOpener();
  std::unique_ptr<internal::Gcm> gcm_;
  uint64_t next_ = 0;
};

}  // namespace tidegate::crypto
