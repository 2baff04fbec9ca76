// Sealing: consumes a Cleared update and gives ciphertext blocks; and the signed manifest that lets
// them out, once their intent is in the ledger.
#pragma once

#include "crypto/seal.h"
#include "crypto/sign.h"
#include "gate/ledger_entry.h"
#include "permit/cleared.h"

namespace tidegate::gate {

struct SealContext {
  protocols::Id16 federation{};
  const protocols::JobManifest& job;
  const protocols::RoundAnnouncement& round;
  Hash32 layout_digest{};
};

struct SealedUpdate {
  crypto::SealedBody body;
  Digest content{};
  uint64_t bytes = 0;
};

// kPermissionDenied when the permit is for another use than the context's round.
Result<SealedUpdate> Seal(permit::Cleared<Bytes> cleared, const SealContext& context);

// The manifest of a sealed update whose intent is leaf `ledger_index`, signed by the site.
Result<protocols::Signed> SignRelease(const SealContext& context, const SealedUpdate& sealed,
                                      const IntentLeaf& intent, uint64_t ledger_index,
                                      int64_t unix_millis, const crypto::SigningKey& key);

}  // namespace tidegate::gate
