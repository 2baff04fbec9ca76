#include "gate/sealing.h"

#include "crypto/hash.h"
#include "protocols/seal_binding.h"

namespace tidegate::gate {

Result<SealedUpdate> Seal(permit::Cleared<Bytes> cleared, const SealContext& context) {
  const permit::Binding use = cleared.binding();
  if (use.key.round != context.round.round || use.key.phase != context.round.phase ||
      use.key.job != context.round.job) {
    return PermissionDenied("a permit for round {} is used in round {}", use.key.round,
                            context.round.round);
  }
  TG_ASSIGN_OR_RETURN(const Bytes update, std::move(cleared).Consume(use));
  if (crypto::Sha256::Of(update) != use.digest || update.size() != use.bytes) {
    return Internal("a cleared update changed before it was sealed");
  }
  TG_ASSIGN_OR_RETURN(const crypto::AgreePublicKey recipient,
                      crypto::AgreePublicKey::FromBytes(context.round.recipient));
  const crypto::Sealer sealer(recipient, crypto::Suite::kTg1,
                              protocols::SealInfo(context.federation, context.job.suite));
  SealedUpdate sealed;
  TG_ASSIGN_OR_RETURN(
      sealed.body,
      sealer.Seal(update, protocols::SealAad(use.key, context.job.base_hash, context.layout_digest,
                                             context.job.codec)));
  crypto::Sha256 content;
  for (const crypto::SealedChunk& chunk : sealed.body.chunks) {
    content.Update(chunk.digest);
    sealed.bytes += chunk.bytes.size();
  }
  sealed.content = content.Finish();
  return sealed;
}

protocols::ReleaseManifest MakeRelease(const SealContext& context, const SealedUpdate& sealed,
                                       const IntentLeaf& intent, uint64_t ledger_index,
                                       int64_t unix_millis) {
  protocols::ReleaseManifest manifest;
  manifest.federation = context.federation;
  manifest.key = intent.key;
  manifest.base_hash = context.job.base_hash;
  manifest.layout_digest = context.layout_digest;
  manifest.codec = context.job.codec;
  manifest.suite = context.job.suite;
  manifest.recipient = context.round.recipient;
  manifest.encapsulated = sealed.body.header.enc;
  manifest.commitment = sealed.body.header.commitment;
  manifest.plaintext = intent.plaintext;
  manifest.ciphertext_bytes = sealed.bytes;
  manifest.content = sealed.content;
  for (const crypto::SealedChunk& chunk : sealed.body.chunks) {
    manifest.blocks.items.push_back(chunk.digest);
  }
  manifest.policy = intent.policy;
  manifest.ledger_index = ledger_index;
  manifest.released_unix_millis = unix_millis;
  return manifest;
}

}  // namespace tidegate::gate
