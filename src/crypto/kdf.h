// HKDF-SHA-256 (RFC 5869). Thread-safe.
#pragma once

#include "crypto/hash.h"

namespace tidegate::crypto {

inline constexpr size_t kHkdfMaxBytes = 255 * 32;

// An empty salt is 32 zero bytes, as the RFC says.
Secret<32> HkdfExtract(ByteSpan salt, ByteSpan input_key);

// `length` bytes, at most kHkdfMaxBytes (kInvalidArgument).
Result<SecretBytes> HkdfExpand(ByteSpan pseudo_random_key, ByteSpan info, size_t length);

// Extract, then expand to one 32-byte key.
Secret<32> DeriveKey(ByteSpan salt, ByteSpan input_key, ByteSpan info);

}  // namespace tidegate::crypto
