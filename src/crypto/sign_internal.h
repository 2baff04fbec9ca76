// Internal to src/crypto's known-answer tests: Ed25519 over bare messages, as RFC 8032 has it.
// Anything else signs with a domain.
#pragma once

#include "crypto/sign.h"

namespace tidegate::crypto::internal {

struct BareEd25519 {
  static Result<Signature> Sign(const SigningKey& key, ByteSpan message) {
    return key.SignRaw(message);
  }
  static Status Verify(const VerifyKey& key, ByteSpan message, ByteSpan signature) {
    return key.VerifyRaw(message, signature);
  }
};

}  // namespace tidegate::crypto::internal
