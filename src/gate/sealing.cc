#include "gate/sealing.h"

#include <algorithm>

#include "crypto/hash.h"
#include "gate/ledger.h"
#include "permit/release_pass.h"
#include "protocols/seal_binding.h"

namespace tidegate::gate {
namespace {

Digest DigestOf(const protocols::ReleaseManifest& manifest) {
  return crypto::Sha256::Of(protocols::Encode(manifest));
}

// A job is named by the first bytes of its digest.
bool IsRoundOf(const protocols::RoundAnnouncement& round, const protocols::JobManifest& job) {
  const Digest digest = crypto::Sha256::Of(protocols::Encode(job));
  return std::equal(round.job.begin(), round.job.end(), digest.begin());
}

protocols::ReleaseManifest ManifestOf(const SealContext& context, const IntentLeaf& intent,
                                      const crypto::SealedBody& body) {
  protocols::ReleaseManifest manifest;
  manifest.federation = context.job.federation;
  manifest.key = intent.key;
  manifest.base_hash = context.job.base_hash;
  manifest.layout_digest = crypto::Sha256::Of(protocols::Encode(context.job.layout));
  manifest.codec = context.job.codec;
  manifest.suite = context.job.suite;
  manifest.recipient = context.round.recipient;
  manifest.encapsulated = body.header.enc;
  manifest.commitment = body.header.commitment;
  manifest.plaintext = intent.plaintext;
  crypto::Sha256 content;
  for (const crypto::SealedChunk& chunk : body.chunks) {
    content.Update(chunk.digest);
    manifest.blocks.items.push_back(chunk.digest);
    manifest.ciphertext_bytes += chunk.bytes.size();
  }
  manifest.content = content.Finish();
  manifest.policy = intent.policy;
  manifest.ledger_index = context.ledger_index;
  manifest.released_unix_millis = context.unix_millis;
  return manifest;
}

}  // namespace

Result<SealedUpdate> Sealing::Seal(permit::Cleared<Update> cleared, const SealContext& context) {
  if (!IsRoundOf(context.round, context.job)) {
    return PermissionDenied("round {} is not one of the job at hand", context.round.round);
  }
  permit::Binding use;
  use.key = {context.round.job, context.round.round, context.round.phase, context.site};
  use.bytes = context.update.size();
  use.digest = crypto::Sha256::Of(context.update);
  TG_ASSIGN_OR_RETURN(Update update, std::move(cleared).Consume(use));
  if (!std::equal(update.bytes.begin(), update.bytes.end(), context.update.begin(),
                  context.update.end())) {
    return Internal("a cleared update changed before it was sealed");
  }
  TG_ASSIGN_OR_RETURN(const crypto::AgreePublicKey recipient,
                      crypto::AgreePublicKey::FromBytes(context.round.recipient));
  const crypto::Sealer sealer(recipient, crypto::Suite::kTg1,
                              protocols::SealInfo(context.job.federation, context.job.suite));
  const Digest layout = crypto::Sha256::Of(protocols::Encode(context.job.layout));
  TG_ASSIGN_OR_RETURN(crypto::SealedBody body,
                      sealer.Seal(update.bytes, protocols::SealAad(use.key, context.job.base_hash,
                                                                   layout, context.job.codec)));
  SealedUpdate sealed(std::move(update.intent));
  sealed.manifest_ = ManifestOf(context, sealed.intent_, body);
  sealed.blocks_ = std::move(body.chunks);
  sealed.intent_.content = sealed.manifest_.content;
  sealed.intent_.ciphertext_bytes = sealed.manifest_.ciphertext_bytes;
  sealed.intent_.release = DigestOf(sealed.manifest_);
  return sealed;
}

Status Sealing::Debit(Ledger& ledger, const SealedUpdate& sealed) {
  if (ledger.size() != sealed.manifest().ledger_index) {
    return Internal("an update was sealed for leaf {}, the ledger is at {}",
                    sealed.manifest().ledger_index, ledger.size());
  }
  const auto index = ledger.AppendIntent(sealed.intent());
  return index ? OkStatus() : Status(index.error());
}

Result<protocols::Signed> Sealing::Sign(const crypto::SigningKey& key, const Ledger& ledger,
                                        const protocols::ReleaseManifest& manifest) {
  if (!HasIntent(ledger, manifest)) {
    return FailedPrecondition("leaf {} of the ledger is no intent of this release",
                              manifest.ledger_index);
  }
  protocols::Signed release;
  release.body.items = protocols::Encode(manifest);
  TG_ASSIGN_OR_RETURN(release.signature,
                      key.SignRelease(permit::ReleasePass(), release.body.items));
  return release;
}

bool HasIntent(const Ledger& ledger, const protocols::ReleaseManifest& manifest) {
  if (manifest.ledger_index >= ledger.size()) return false;
  const LedgerEntry& entry = ledger.leaves()[manifest.ledger_index].entry;
  if (entry.type != LeafType::kIntent) return false;
  const auto intent = protocols::Decode<IntentLeaf>(entry.body.items);
  return intent && intent->release == DigestOf(manifest);
}

}  // namespace tidegate::gate
