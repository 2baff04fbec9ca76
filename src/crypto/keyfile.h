// Key files: armoured secrets (docs/formats/keys.md), readable by their owner alone.
//
// Writing never replaces a file (kAlreadyExists): an identity is not lost by a typing error.
// Reading refuses, as kPermissionDenied and with the command that mends it, a file that anybody but
// this process' user owns or may touch, and a symbolic link. Errors never hold key bytes.
// Thread-safe.
#pragma once

#include <filesystem>

#include "crypto/agree.h"
#include "crypto/sign.h"

namespace tidegate::crypto {

// A ZeroMQ CURVE pair (Curve25519, as libsodium's crypto_box makes them).
class CurveKeyPair {
 public:
  static Result<CurveKeyPair> Generate();
  // kInvalidArgument unless the second is the public half of the first.
  static Result<CurveKeyPair> FromBytes(ByteSpan secret, ByteSpan public_key);

  const Secret<32>& secret() const { return secret_; }
  std::span<const uint8_t, 32> public_key() const { return public_key_; }

 private:
  CurveKeyPair() = default;
  Secret<32> secret_;
  std::array<uint8_t, 32> public_key_{};
};

Status WriteKeyFile(const std::filesystem::path& path, const SigningKey& key);
Status WriteKeyFile(const std::filesystem::path& path, const CurveKeyPair& key);

// kInvalidArgument for a file of another type, which is named.
Result<SigningKey> ReadSigningKey(const std::filesystem::path& path);
Result<CurveKeyPair> ReadCurveKey(const std::filesystem::path& path);

}  // namespace tidegate::crypto
