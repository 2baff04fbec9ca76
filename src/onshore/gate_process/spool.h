// What the gate holds on disk besides the ledger: sealed updates that wait for their receipt, and
// the last signed documents of the coordinator. Not thread-safe.
//
//   DIR/spool/          ciphertext blocks          DIR/inbox/     adapter blocks
//   DIR/releases/KEY    ReleaseManifest, unsigned  DIR/receipts/  signed receipts, armoured
//   DIR/state/{job,round,adapter}                  the documents as they were signed
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "blocks/block_store.h"
#include "gate/ledger.h"
#include "gate/sealing.h"
#include "protocols/documents.h"

namespace tidegate::onshore {

class GateSpool {
 public:
  // `spool_bytes`: the quota of sealed updates, at most kMaxSpoolBytes.
  static Result<GateSpool> Open(const std::filesystem::path& dir,
                                uint64_t spool_bytes = protocols::kMaxSpoolBytes);

  // Blocks and manifest of a sealed update, durable. Before its intent is in the ledger this lets
  // nothing out: a manifest without an intent is removed by Recover. kResourceExhausted over the
  // quota or when the disk is full; to be followed by Remove.
  Status Store(const gate::SealedUpdate& sealed);
  // Manifests whose intent is in the ledger and whose receipt is not; the others are removed.
  Result<std::map<std::string, protocols::ReleaseManifest>> Recover(const gate::Ledger& ledger);
  Status Remove(const protocols::ReleaseManifest& manifest);
  Status StoreReceipt(const protocols::UpdateKey& key, const protocols::Signed& receipt);

  // What people are shown of an update that is held, and what they say: held/NAME.json,
  // approvals/NAME-….approval. The documents are as they lie there, not verified.
  Status StoreHeld(const std::string& name, const std::string& json);
  Result<std::vector<protocols::Signed>> Approvals(const std::string& name) const;
  // Of all but this one.
  Status ForgetHeld(const std::optional<std::string>& keep);
  Status StoreDocument(const std::string& name, const protocols::Signed& document);
  Result<std::optional<protocols::Signed>> LoadDocument(const std::string& name) const;

  blocks::BlockStore& spool() { return spool_; }
  blocks::BlockStore& inbox() { return inbox_; }
  // Removes inbox blocks that this adapter does not have.
  Status TrimInbox(const protocols::AdapterManifest& keep);

  // "JOBHEX-3-0": how files of an update are named.
  static std::string NameOf(const protocols::UpdateKey& key);

 private:
  GateSpool(std::filesystem::path dir, blocks::BlockStore spool, blocks::BlockStore inbox)
      : dir_(std::move(dir)), spool_(std::move(spool)), inbox_(std::move(inbox)) {}

  std::filesystem::path dir_;
  blocks::BlockStore spool_, inbox_;
};

}  // namespace tidegate::onshore
