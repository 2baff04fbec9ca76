// X25519 key agreement (RFC 7748). A recipient's key pair is one of these: made for a round, its
// secret kept by the coordinator's store until the round is committed.
// Thread-safety: const members may be called from several threads.
#pragma once

#include <array>

#include "crypto/secret.h"

namespace tidegate::crypto {

class AgreePublicKey {
 public:
  // kInvalidArgument for another length than 32, and for the points of small order, with which
  // every shared secret is zero. Any other 32 bytes are a key: RFC 7748 reduces u, ignores bit 255,
  // and takes points of the twist.
  static Result<AgreePublicKey> FromBytes(ByteSpan bytes);

  std::span<const uint8_t, 32> bytes() const { return bytes_; }
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
  // The 32 secret bytes for storage.
  Secret<32> Serialize() const { return secret_.Clone(); }
  // The shared secret, to be fed to a KDF. kInvalidArgument when it is all zero.
  Result<Secret<32>> Agree(const AgreePublicKey& peer) const;

 private:
  AgreeSecretKey() = default;
  Secret<32> secret_;
  AgreePublicKey public_key_;
};

}  // namespace tidegate::crypto
