#include "onshore/gate_process/spool.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/file.h"
#include "crypto/document.h"
#include "gate/approval.h"

namespace tidegate::onshore {
namespace {

namespace fs = std::filesystem;

Status RemoveFile(const fs::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus("remove", path.native(), errno);
  }
  return OkStatus();
}

bool HasReceipt(const gate::Ledger& ledger, const protocols::ReleaseManifest& manifest) {
  return std::any_of(
      ledger.leaves().begin(), ledger.leaves().end(), [&](const gate::LedgerLeaf& leaf) {
        if (leaf.entry.type != gate::LeafType::kReceipt) return false;
        const auto stored = protocols::Decode<gate::ReceiptLeaf>(leaf.entry.body.items);
        const auto receipt =
            stored ? protocols::Decode<protocols::Receipt>(stored->receipt.body.items)
                   : protocols::Decoded<protocols::Receipt>(tl::unexpect, protocols::DecodeError{});
        return receipt && receipt->key == manifest.key && receipt->content == manifest.content;
      });
}

}  // namespace

std::string GateSpool::NameOf(const protocols::UpdateKey& key) {
  return fmt::format("{}-{}-{}", ToHex(key.job), key.round, key.phase);
}

Result<GateSpool> GateSpool::Open(const fs::path& dir, uint64_t spool_bytes) {
  std::error_code error;
  for (const char* name : {"releases", "receipts", "state", "held", "approvals"}) {
    fs::create_directories(dir / name, error);
    if (error) return Unavailable("cannot make {}: {}", (dir / name).native(), error.message());
  }
  TG_ASSIGN_OR_RETURN(
      blocks::BlockStore spool,
      blocks::BlockStore::Open(dir / "spool", std::min(spool_bytes, protocols::kMaxSpoolBytes)));
  TG_ASSIGN_OR_RETURN(blocks::BlockStore inbox,
                      blocks::BlockStore::Open(dir / "inbox", protocols::kMaxInboxBytes));
  return GateSpool(dir, std::move(spool), std::move(inbox));
}

Status GateSpool::Store(const gate::SealedUpdate& sealed) {
  const protocols::ReleaseManifest& manifest = sealed.manifest();
  for (const crypto::SealedChunk& chunk : sealed.blocks()) {
    const Status put = spool_.PutHashed(chunk.digest, chunk.bytes);
    if (put.code() == Code::kResourceExhausted) {
      return put.WithContext(
          "no room for a sealed update (the disk, or max_spool_bytes of site.toml)");
    }
    TG_RETURN_IF_ERROR(put);
  }
  TG_RETURN_IF_ERROR(spool_.Sync());
  return WriteFileDurably(dir_ / "releases" / NameOf(manifest.key), protocols::Encode(manifest),
                          0600);
}

Result<std::map<std::string, protocols::ReleaseManifest>> GateSpool::Recover(
    const gate::Ledger& ledger) {
  std::map<std::string, protocols::ReleaseManifest> open;
  std::set<Digest> used;
  std::vector<fs::path> gone;
  std::error_code error;
  for (fs::directory_iterator it(dir_ / "releases", error), end; !error && it != end;
       it.increment(error)) {
    const auto bytes = ReadFile(it->path(), protocols::kMaxControlBody);
    const auto manifest = bytes ? protocols::Decode<protocols::ReleaseManifest>(*bytes)
                                : protocols::Decoded<protocols::ReleaseManifest>(
                                      tl::unexpect, protocols::DecodeError{});
    if (!manifest || !gate::HasIntent(ledger, *manifest) || HasReceipt(ledger, *manifest)) {
      gone.push_back(it->path());
      continue;
    }
    used.insert(manifest->blocks.items.begin(), manifest->blocks.items.end());
    open.emplace(NameOf(manifest->key), *manifest);
  }
  if (error) return Unavailable("cannot list {}: {}", dir_.native(), error.message());
  for (const fs::path& path : gone) TG_RETURN_IF_ERROR(RemoveFile(path));
  TG_ASSIGN_OR_RETURN(const std::vector<Digest> blocks, spool_.List());
  for (const Digest& id : blocks) {
    if (!used.contains(id)) TG_RETURN_IF_ERROR(spool_.Remove(id));
  }
  return open;
}

Status GateSpool::Remove(const protocols::ReleaseManifest& manifest) {
  TG_RETURN_IF_ERROR(RemoveFile(dir_ / "releases" / NameOf(manifest.key)));
  for (const Digest& id : manifest.blocks.items) TG_RETURN_IF_ERROR(spool_.RemoveSoon(id));
  return OkStatus();
}

Status GateSpool::StoreReceipt(const protocols::UpdateKey& key, const protocols::Signed& receipt) {
  TG_ASSIGN_OR_RETURN(const std::string text,
                      crypto::EncodeArmor("RECEIPT", protocols::Encode(receipt)));
  return WriteFileDurably(dir_ / "receipts" / (NameOf(key) + ".receipt"), AsBytes(text));
}

Status GateSpool::StoreHeld(const std::string& name, const std::string& json) {
  return WriteFileDurably(dir_ / "held" / (name + ".json"), AsBytes(json), 0600);
}

Status GateSpool::ForgetHeld(const std::optional<std::string>& keep) {
  for (const char* folder : {"held", "approvals"}) {
    std::vector<fs::path> gone;
    std::error_code error;
    for (fs::directory_iterator it(dir_ / folder, error), end; !error && it != end;
         it.increment(error)) {
      if (!keep || !it->path().filename().native().starts_with(*keep)) gone.push_back(it->path());
    }
    if (error) return Unavailable("cannot list {}: {}", (dir_ / folder).native(), error.message());
    for (const fs::path& path : gone) TG_RETURN_IF_ERROR(RemoveFile(path));
  }
  return OkStatus();
}

Result<std::vector<protocols::Signed>> GateSpool::Approvals(const std::string& name) const {
  std::vector<protocols::Signed> documents;
  std::error_code error;
  for (fs::directory_iterator it(dir_ / "approvals", error), end;
       !error && it != end && documents.size() < gate::kMaxApprovals; it.increment(error)) {
    const fs::path& path = it->path();
    if (!path.filename().native().starts_with(name) || path.extension() != ".approval") continue;
    // Anybody's mistake there must not end the gate; what counts is decided by signatures.
    const auto text = ReadTextFile(path, protocols::kMaxArmored);
    const auto document = text ? crypto::DecodeArmored("EXPORT APPROVAL", *text, path.native())
                               : Result<protocols::Signed>(Unexpected(text.error()));
    if (document) documents.push_back(*document);
  }
  if (error)
    return Unavailable("cannot list {}: {}", (dir_ / "approvals").native(), error.message());
  return documents;
}

Status GateSpool::StoreDocument(const std::string& name, const protocols::Signed& document) {
  return WriteFileDurably(dir_ / "state" / name, protocols::Encode(document), 0600);
}

Result<std::optional<protocols::Signed>> GateSpool::LoadDocument(const std::string& name) const {
  const fs::path path = dir_ / "state" / name;
  if (!fs::exists(path)) return std::nullopt;
  TG_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, protocols::kMaxControlBody));
  auto document = protocols::Decode<protocols::Signed>(bytes);
  if (!document) return DataLoss("{}: {}", path.native(), document.error().reason);
  return std::move(*document);
}

Status GateSpool::TrimInbox(const protocols::AdapterManifest& keep) {
  const std::set<Digest> used(keep.blocks.items.begin(), keep.blocks.items.end());
  TG_ASSIGN_OR_RETURN(const std::vector<Digest> blocks, inbox_.List());
  for (const Digest& id : blocks) {
    if (!used.contains(id)) TG_RETURN_IF_ERROR(inbox_.RemoveSoon(id));
  }
  return OkStatus();
}

}  // namespace tidegate::onshore
