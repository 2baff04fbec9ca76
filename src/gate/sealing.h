// Sealing: consumes a Cleared update and gives ciphertext blocks; and the manifest that, signed by
// the site, lets them out.
#pragma once

#include "crypto/seal.h"
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

// The manifest of a sealed update whose intent is, or is going to be, leaf `ledger_index`. It lets
// nothing out before it is signed, and it is signed only when the intent is in the ledger.
protocols::ReleaseManifest MakeRelease(const SealContext& context, const SealedUpdate& sealed,
                                       const IntentLeaf& intent, uint64_t ledger_index,
                                       int64_t unix_millis);

}  // namespace tidegate::gate
