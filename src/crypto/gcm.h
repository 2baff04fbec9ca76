// Internal to src/crypto: AES-GCM with the nonce given by the caller. Only hpke.cc and
// seal_suite.cc use it, each with a counter of its own; no public API takes a nonce.
#pragma once

#include <memory>
#include <span>

#include "crypto/hash.h"
#include "crypto/secret.h"

struct evp_cipher_ctx_st;

namespace tidegate::crypto::internal {

inline constexpr size_t kGcmTagBytes = 16;
inline constexpr size_t kGcmNonceBytes = 12;
using GcmNonce = std::array<uint8_t, kGcmNonceBytes>;

// One key and one direction. For one thread at a time.
class Gcm {
 public:
  enum class Direction { kSeal, kOpen };
  // A key of 16 or 32 bytes (AES-128, AES-256).
  static Result<Gcm> Create(ByteSpan key, Direction direction);
  Gcm(Gcm&&) noexcept;
  Gcm& operator=(Gcm&&) noexcept;
  ~Gcm();

  // Encrypts buffer[0, size-16) in place and writes the tag behind it. With `hash`, the ciphertext
  // and tag are also fed to it while they are in the cache.
  Status SealInPlace(const GcmNonce& nonce, ByteSpan aad, std::span<uint8_t> buffer, Sha256* hash);

  // The plaintext of `sealed` (ciphertext and tag) to out[0, size-16). kUnauthenticated when the
  // tag does not match; `out` is then zeroed.
  Status Open(const GcmNonce& nonce, ByteSpan aad, ByteSpan sealed, uint8_t* out);

 private:
  struct Deleter {
    void operator()(evp_cipher_ctx_st* ctx) const;
  };
  Gcm() = default;
  Status Begin(const GcmNonce& nonce, ByteSpan aad);
  std::unique_ptr<evp_cipher_ctx_st, Deleter> ctx_;
};

}  // namespace tidegate::crypto::internal
