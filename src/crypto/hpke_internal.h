// Internal to src/crypto and to its known-answer tests: HPKE with a chosen AEAD and a chosen
// ephemeral key. A fixed ephemeral key outside a test gives the same key stream twice.
#pragma once

#include "crypto/hpke.h"

namespace tidegate::crypto::internal {

// RFC 9180, table 5.
enum class HpkeAead : uint16_t { kAes128Gcm = 1, kAes256Gcm = 2 };

Result<HpkeSenderSetup> SetupSenderWith(HpkeAead aead, const AgreePublicKey& recipient,
                                        ByteSpan info, const AgreeSecretKey& ephemeral);
Result<HpkeRecipient> SetupRecipientWith(HpkeAead aead, ByteSpan enc,
                                         const AgreeSecretKey& recipient, ByteSpan info);

// The nonce of message `sequence`: the base nonce XOR the number, big-endian.
std::array<uint8_t, 12> HpkeNonce(const Secret<12>& base_nonce, uint64_t sequence);

}  // namespace tidegate::crypto::internal
