// Hybrid public key encryption (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256) / HKDF-SHA256 /
// AES-256-GCM, over the primitives of this module (OpenSSL 3.0 has none of its own). Base mode
// authenticates nobody: who sent something is said by a signature over it.
// A context is for one thread at a time.
#pragma once

#include <array>
#include <memory>

#include "crypto/agree.h"

namespace tidegate::crypto {

namespace internal {
struct HpkeState;
}

inline constexpr size_t kHpkeEncBytes = 32;
using HpkeEnc = std::array<uint8_t, kHpkeEncBytes>;

// `length` secret bytes bound to this exchange and `exporter_context`; at most 255 * 32.
class HpkeContext {
 public:
  Result<SecretBytes> Export(ByteSpan exporter_context, size_t length) const;

  HpkeContext(HpkeContext&&) noexcept;
  HpkeContext& operator=(HpkeContext&&) noexcept;
  ~HpkeContext();

 protected:
  explicit HpkeContext(std::unique_ptr<internal::HpkeState> state);
  std::unique_ptr<internal::HpkeState> state_;
};

class HpkeSender : public HpkeContext {
 public:
  // The next message of the sequence; 16 bytes longer than the plaintext.
  Result<Bytes> Seal(ByteSpan aad, ByteSpan plaintext);
  explicit HpkeSender(std::unique_ptr<internal::HpkeState> state);
};

class HpkeRecipient : public HpkeContext {
 public:
  // kUnauthenticated when `sealed` is not the next message of the sequence; the sequence stays.
  Result<Bytes> Open(ByteSpan aad, ByteSpan sealed);
  explicit HpkeRecipient(std::unique_ptr<internal::HpkeState> state);
};

struct HpkeSenderSetup {
  HpkeEnc enc;  // goes to the recipient, public
  HpkeSender context;
};

Result<HpkeSenderSetup> SetupSender(const AgreePublicKey& recipient, ByteSpan info);
Result<HpkeRecipient> SetupRecipient(ByteSpan enc, const AgreeSecretKey& recipient, ByteSpan info);

}  // namespace tidegate::crypto
