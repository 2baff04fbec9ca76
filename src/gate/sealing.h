// Sealing: what becomes of an update that the review cleared, step by step, and the only code that
// may take the steps.
//
//   Cleared<Update> --Seal--> SealedUpdate --Debit--> intent leaf in the ledger --Sign--> release
//
// Nobody else can make a SealedUpdate, write an intent, or sign in the domain of releases; and what
// is signed is a manifest that an intent names by its digest. So the chain holds over a restart
// too, where the ledger is what is left of it. Pure functions but for the ledger.
#pragma once

#include <string>
#include <vector>

#include "crypto/seal.h"
#include "crypto/sign.h"
#include "gate/ledger_entry.h"
#include "permit/cleared.h"

namespace tidegate::gate {

class Ledger;

// What the review clears: the encoded update, and what the ledger is going to say of it (all but
// the fields that sealing fills in: content, ciphertext_bytes, release).
struct Update {
  Bytes bytes;
  IntentLeaf intent;
};

// The use that a permit is held against.
struct SealContext {
  const std::string& site;
  const protocols::JobManifest& job;
  const protocols::RoundAnnouncement& round;
  ByteSpan update;            // as it came from the trainer
  uint64_t ledger_index = 0;  // where the intent is going to be
  int64_t unix_millis = 0;
};

// An update's ciphertext with the manifest and the intent that belong to it. Move-only.
class SealedUpdate {
 public:
  SealedUpdate(SealedUpdate&&) = default;
  SealedUpdate& operator=(SealedUpdate&&) = delete;
  SealedUpdate(const SealedUpdate&) = delete;
  SealedUpdate& operator=(const SealedUpdate&) = delete;

  const std::vector<crypto::SealedChunk>& blocks() const { return blocks_; }
  const protocols::ReleaseManifest& manifest() const { return manifest_; }
  const IntentLeaf& intent() const { return intent_; }

 private:
  friend class Sealing;
  explicit SealedUpdate(IntentLeaf intent) : intent_(std::move(intent)) {}

  std::vector<crypto::SealedChunk> blocks_;
  protocols::ReleaseManifest manifest_;
  IntentLeaf intent_;
};

class Sealing {
 public:
  // kPermissionDenied when the permit is for another use than the context's site, job, round,
  // phase or update, or when the job is not the round's.
  static Result<SealedUpdate> Seal(permit::Cleared<Update> cleared, const SealContext& context);

  // The debit: the intent, durable, at the index that the manifest names. kInternal when the ledger
  // has grown since: seal again. Errors of Ledger::Append.
  static Status Debit(Ledger& ledger, const SealedUpdate& sealed);

  // kFailedPrecondition when no intent in the ledger names this manifest.
  static Result<protocols::Signed> Sign(const crypto::SigningKey& key, const Ledger& ledger,
                                        const protocols::ReleaseManifest& manifest);
};

// The leaf at the manifest's index is an intent that names exactly this manifest.
bool HasIntent(const Ledger& ledger, const protocols::ReleaseManifest& manifest);

}  // namespace tidegate::gate
