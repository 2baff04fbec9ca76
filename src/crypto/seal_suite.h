// Cipher suites of sealed bodies. A federation pins one; nothing is negotiated. A new suite gets a
// byte here, an implementation of SealSuite and a row in FindSuite.
#pragma once

#include <memory>

#include "crypto/agree.h"

namespace tidegate::crypto {

// The byte on the wire. For ever.
enum class Suite : uint8_t {
  kTg1 = 1,  // HPKE base: X25519, HKDF-SHA256; body: AES-256-GCM in chunks
};

// kUnsupported for a byte that names no suite; the message lists those there are.
Result<Suite> ParseSuite(uint8_t byte);

// Encrypts or decrypts the chunks of one body. The nonce is made from the number and the flag, so
// one cipher must see each number at most once when sealing. For one thread at a time.
class ChunkCipher {
 public:
  virtual ~ChunkCipher() = default;
  // Seals buffer[0, size - tag) in place, the tag behind it; returns SHA-256 of the whole buffer,
  // computed in the same pass.
  virtual Result<Digest> Seal(uint64_t number, bool last, std::span<uint8_t> buffer) = 0;
  // kUnauthenticated when `sealed` is not chunk `number` with this flag.
  virtual Result<Bytes> Open(uint64_t number, bool last, ByteSpan sealed) = 0;
};

// What the two ends share once a key is set up.
struct SealSession {
  Bytes enc;          // what the recipient needs to arrive at the same key
  Digest commitment;  // to key, info and associated data: AES-GCM alone commits to nothing
  std::unique_ptr<ChunkCipher> cipher;
};

// Stateless and thread-safe.
class SealSuite {
 public:
  virtual ~SealSuite() = default;
  virtual Result<SealSession> Begin(const AgreePublicKey& recipient, ByteSpan info,
                                    ByteSpan aad) const = 0;
  // The commitment is what it must be; the caller compares it with what came.
  virtual Result<SealSession> Resume(ByteSpan enc, const AgreeSecretKey& recipient, ByteSpan info,
                                     ByteSpan aad) const = 0;
};

const SealSuite& FindSuite(Suite suite);

}  // namespace tidegate::crypto
