// X25519 key agreement (RFC 7748). A recipient's key pair is one of these: made for a round or a
// day, its secret stored, and erased after the round is committed.
// Thread-safety: const members may be called from several threads.
#pragma once

#include <array>
#include <string>

#include "crypto/secret.h"

namespace tidegate::crypto {

// Its text is "x25519:" and base64.
class AgreePublicKey {
 public:
  static Result<AgreePublicKey> FromBytes(ByteSpan bytes);
  static Result<AgreePublicKey> FromText(std::string_view text);

  std::span<const uint8_t, 32> bytes() const { return bytes_; }
  std::string ToText() const;
  // SHA-256 of the 32 bytes.
  Digest Fingerprint() const;
  friend bool operator==(const AgreePublicKey&, const AgreePublicKey&) = default;  // public bytes

 private:
  friend class AgreeSecretKey;
  AgreePublicKey() = default;
  std::array<uint8_t, 32> bytes_{};
};

class AgreeSecretKey {
 public:
  static Result<AgreeSecretKey> Generate();
  // The inverse of Serialize.
  static Result<AgreeSecretKey> FromBytes(ByteSpan bytes);

  const AgreePublicKey& public_key() const { return public_key_; }
  // The 32 secret bytes for storage. kFailedPrecondition after Erase.
  Result<Secret<32>> Serialize() const;
  // The shared secret, to be fed to a KDF. kInvalidArgument when it is all zero, as a peer's point
  // of small order makes it; kFailedPrecondition after Erase.
  Result<Secret<32>> Agree(const AgreePublicKey& peer) const;

  // Zeroes the secret half for good; the public half stays, to name what was erased.
  void Erase();
  bool erased() const { return erased_; }

 private:
  AgreeSecretKey() = default;
  Status CheckNotErased() const;
  Secret<32> secret_;
  AgreePublicKey public_key_;
  bool erased_ = false;
};

}  // namespace tidegate::crypto
