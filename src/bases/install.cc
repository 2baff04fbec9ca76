#include "bases/install.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "bases/files.h"
#include "bases/patch.h"
#include "blocks/content.h"
#include "crypto/base_hash.h"

namespace tidegate::bases {
namespace {

namespace fs = std::filesystem;

// The new base's bytes in, files out. Each block is held against its id before it is written.
class FolderWriter {
 public:
  FolderWriter(fs::path dir, const protocols::BaseIndex& index)
      : dir_(std::move(dir)), index_(index) {}

  Status Add(ByteSpan bytes) {
    while (!bytes.empty()) {
      if (block_ >= index_.blocks.size()) return DataLoss("there is more than the base's blocks");
      const size_t wanted = index_.blocks.items[block_].bytes - waiting_.size();
      const size_t take = std::min(bytes.size(), wanted);
      waiting_.insert(waiting_.end(), bytes.begin(), bytes.begin() + static_cast<long>(take));
      bytes = bytes.subspan(take);
      if (take == wanted) TG_RETURN_IF_ERROR(WriteBlock());
    }
    return OkStatus();
  }

  // Files without a byte too.
  Status Finish() {
    if (block_ != index_.blocks.size()) return DataLoss("the base ends early");
    while (file_ < index_.files.size()) {
      TG_RETURN_IF_ERROR(OpenFile());
      TG_RETURN_IF_ERROR(CloseFile());
    }
    return OkStatus();
  }

 private:
  Status OpenFile() {
    const fs::path path = dir_ / index_.files.items[file_].name.text;
    fd_ = Fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
    return fd_.valid() ? OkStatus() : ErrnoStatus("create", path.native(), errno);
  }
  Status CloseFile() {
    const std::string& name = index_.files.items[file_++].name.text;
    if (::fsync(fd_.get()) != 0) return ErrnoStatus("fsync", (dir_ / name).native(), errno);
    fd_.reset();
    written_ = 0;
    return OkStatus();
  }
  Status WriteBlock() {
    if (blocks::BlockId(waiting_) != index_.blocks.items[block_].id) {
      return DataLoss("block {} of the base is not the one that its index names", block_);
    }
    while (!fd_.valid()) {
      TG_RETURN_IF_ERROR(OpenFile());
      if (index_.files.items[file_].bytes == 0) TG_RETURN_IF_ERROR(CloseFile());
    }
    const protocols::BaseFile& file = index_.files.items[file_];
    TG_RETURN_IF_ERROR(WriteAll(fd_.get(), waiting_, (dir_ / file.name.text).native()));
    written_ += waiting_.size();
    waiting_.clear();
    ++block_;
    return written_ == file.bytes ? CloseFile() : OkStatus();
  }

  fs::path dir_;
  const protocols::BaseIndex& index_;
  Bytes waiting_;
  Fd fd_;
  size_t block_ = 0, file_ = 0;
  uint64_t written_ = 0;
};

Status Fill(const Installation& i, const fs::path& dir) {
  TG_ASSIGN_OR_RETURN(const Bytes encoded, GetList(i.manifest.index, i.source));
  const auto index = protocols::Decode<protocols::BaseIndex>(encoded);
  if (!index) return InvalidArgument("the base's index: {}", index.error().reason);
  TG_RETURN_IF_ERROR(CheckIndex(*index, i.manifest.base_bytes));
  FolderWriter writer(dir, *index);
  const auto add = [&writer](ByteSpan bytes) { return writer.Add(bytes); };
  if (i.from.empty()) {
    for (const protocols::BaseBlock& block : index->blocks.items) {
      TG_ASSIGN_OR_RETURN(const Bytes bytes, i.source(block.id));
      if (bytes.size() != block.bytes) return DataLoss("a block has another size than its index's");
      TG_RETURN_IF_ERROR(add(bytes));
    }
  } else {
    TG_ASSIGN_OR_RETURN(const Digest from, crypto::BaseHash(i.from));
    if (from != i.manifest.patch_from) {
      return FailedPrecondition("{} has base hash {}, the patch is for {}", i.from.native(),
                                ToHex(from), ToHex(i.manifest.patch_from));
    }
    TG_ASSIGN_OR_RETURN(const Bytes list, GetList(i.manifest.patch, i.source));
    const auto patch = protocols::Decode<protocols::BasePatch>(list);
    if (!patch) return InvalidArgument("the base's patch: {}", patch.error().reason);
    TG_RETURN_IF_ERROR(CheckPatch(*patch, i.manifest.patch_bytes, *index));
    TG_RETURN_IF_ERROR(ApplyPatch(*patch, i.from, i.source, add));
  }
  TG_RETURN_IF_ERROR(writer.Finish());
  TG_ASSIGN_OR_RETURN(const Digest hash, crypto::BaseHash(dir));
  if (hash != i.manifest.base_hash) {
    return DataLoss("the base has hash {}, its manifest says {}", ToHex(hash),
                    ToHex(i.manifest.base_hash));
  }
  return WriteFileDurably(dir / kInstalledManifest, protocols::Encode(i.document), 0444);
}

}  // namespace

Status Install(const Installation& installation) {
  const fs::path& target = installation.target;
  std::error_code error;
  if (fs::exists(target, error)) {
    return AlreadyExists("{} exists; remove it to install the base anew", target.native());
  }
  // What a run that was killed has left begins anew: its blocks are still there.
  fs::path partial = target;
  partial += ".partial";
  fs::remove_all(partial, error);
  fs::create_directory(partial, error);
  if (error) return ErrnoStatus("create", partial.native(), error.value());
  Status status = Fill(installation, partial);
  if (status.ok()) status = SyncDirectory(partial);
  if (status.ok() && ::rename(partial.c_str(), target.c_str()) != 0) {
    status = ErrnoStatus("rename to", target.native(), errno);
  }
  if (!status.ok()) {
    fs::remove_all(partial, error);
    return status;
  }
  return SyncDirectory(target.parent_path());
}

}  // namespace tidegate::bases
