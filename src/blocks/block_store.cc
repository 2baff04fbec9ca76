#include "blocks/block_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/file.h"
#include "blocks/content.h"

namespace tidegate::blocks {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporary = ".tmp";
// What a crash may cost at most to be fetched again.
constexpr uint64_t kTurnBytes = 2u << 20;
// Files that wait for the disk before Put waits too.
constexpr size_t kMostWaiting = 64;
constexpr size_t kMostSpares = 256;

fs::path Temporary(fs::path path) {
  path += kTemporary;
  return path;
}

struct Listing {
  std::vector<std::pair<Digest, uint64_t>> blocks;  // with their sizes, in order of the ids
  std::vector<fs::path> leftovers;
};

// What is in the folder. Files that are neither blocks nor half-written ones are not ours.
Result<Listing> ListFolder(const fs::path& dir) {
  Listing listing;
  std::error_code error;
  fs::recursive_directory_iterator it(dir, error), end;
  for (; !error && it != end; it.increment(error)) {
    std::error_code gone;
    if (!it->is_regular_file(gone) || gone) continue;
    const fs::path& path = it->path();
    if (path.extension() == kTemporary) {
      listing.leftovers.push_back(path);
      continue;
    }
    const auto id =
        DigestFromHex(path.parent_path().filename().string() + path.filename().string());
    const uint64_t size = it->file_size(gone);
    if (id && !gone) listing.blocks.emplace_back(*id, size);
  }
  if (error) return Unavailable("cannot list {}: {}", dir.native(), error.message());
  std::sort(listing.blocks.begin(), listing.blocks.end());
  return listing;
}

}  // namespace

Result<BlockStore> BlockStore::Open(const fs::path& dir, uint64_t quota_bytes) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return Unavailable("cannot make {}: {}", dir.native(), error.message());
  TG_RETURN_IF_ERROR(SyncDirectory(fs::absolute(dir, error).parent_path()));
  BlockStore store(dir, quota_bytes);
  TG_ASSIGN_OR_RETURN(const Listing listing, ListFolder(dir));
  for (const auto& [id, size] : listing.blocks) store.used_ += size;
  for (const fs::path& path : listing.leftovers) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
      return Unexpected(ErrnoStatus("remove", path.native(), errno));
    }
  }
  return store;
}

fs::path BlockStore::PathOf(const Digest& id) const {
  const std::string hex = ToHex(id);
  return dir_ / hex.substr(0, 2) / hex.substr(2);
}

Status BlockStore::Put(const Digest& id, ByteSpan block) {
  if (BlockId(block) != id) return InvalidArgument("a block does not have the bytes of its id");
  return PutHashed(id, block);
}

Status BlockStore::PutHashed(const Digest& id, ByteSpan block) {
  const fs::path path = PathOf(id);
  std::error_code error;
  if (unnamed_.contains(id)) return OkStatus();
  if (removing_.contains(id)) {
    tasks_->Wait();
    removing_.clear();
  }
  if (fs::exists(path, error)) {
    // Perhaps put by a process that ended before its Sync.
    unsynced_.insert({dir_, path.parent_path()});
    return OkStatus();
  }
  size_t spares = tasks_->spares();
  if (spares > 0 && block.size() == protocols::kBlockBytes) --spares;  // which this one takes
  if (used_ + block.size() + spares * protocols::kBlockBytes > quota_) tasks_->DropSpares();
  if (block.size() > quota_ || used_ > quota_ - block.size()) {
    return ResourceExhausted(
        "the block store {} holds {} bytes, a block of {} would pass its quota of {}; raise the "
        "quota or remove what is no longer needed",
        dir_.native(), used_, block.size(), quota_);
  }
  if (fs::create_directory(path.parent_path(), error)) unsynced_.insert(dir_);
  if (error) return Unavailable("cannot make {}: {}", path.parent_path().native(), error.message());
  TG_ASSIGN_OR_RETURN(Unnamed written, WriteNew(path, block));
  used_ += block.size();
  unnamed_.emplace(id, std::move(written));
  written_bytes_ += block.size();
  if (written_bytes_ < kTurnBytes) return OkStatus();
  HandOver();
  tasks_->Wait(kMostWaiting);
  Collect();
  return lost_;
}

Result<BlockStore::Unnamed> BlockStore::WriteNew(const fs::path& path, ByteSpan block) {
  Unnamed written{block.size(), Fd(), Temporary(path)};
  if (block.size() == protocols::kBlockBytes) {
    if (const auto spare = tasks_->TakeSpare()) {
      written.temporary = *spare;
      written.file = Fd(::open(spare->c_str(), O_WRONLY | O_CLOEXEC));
    }
  }
  const fs::path& temporary = written.temporary;
  if (!written.file.valid()) {
    written.temporary = Temporary(path);
    written.file = Fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!written.file.valid()) return Unexpected(ErrnoStatus("create", temporary.native(), errno));
  }
  if (const Status status = WriteAll(written.file.get(), block, temporary.native()); !status.ok()) {
    ::unlink(temporary.c_str());
    return Unexpected(status);
  }
  // Only a hint to begin: what fails here fails in fdatasync.
  ::sync_file_range(written.file.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
  return written;
}

void BlockStore::HandOver() {
  written_bytes_ = 0;
  for (auto& [id, unnamed] : unnamed_) {
    if (!unnamed.file.valid()) continue;
    tasks_->Name(id, std::exchange(unnamed.file, Fd()), unnamed.temporary, PathOf(id));
  }
}

// After a failed fsync nothing says which bytes reached the disk: what has no name is put anew.
void BlockStore::Collect() {
  for (const FileTasks::Outcome& outcome : tasks_->TakeOutcomes()) {
    const auto it = unnamed_.find(outcome.id);
    if (!outcome.status.ok()) {
      if (lost_.ok()) lost_ = outcome.status;
      ::unlink(it->second.temporary.c_str());
      std::error_code error;
      if (!fs::exists(PathOf(outcome.id), error)) used_ -= std::min(used_, it->second.size);
    }
    unnamed_.erase(it);
  }
}

Status BlockStore::Sync() {
  HandOver();
  tasks_->Wait();
  Collect();
  removing_.clear();
  TG_RETURN_IF_ERROR(std::exchange(lost_, OkStatus()));
  TG_RETURN_IF_ERROR(tasks_->TakeUnlinkStatus());
  for (const fs::path& directory : unsynced_) TG_RETURN_IF_ERROR(SyncDirectory(directory));
  unsynced_.clear();
  return OkStatus();
}

Result<Bytes> BlockStore::GetUnverified(const Digest& id) const {
  const fs::path path = PathOf(id);
  if (const auto it = unnamed_.find(id); it != unnamed_.end()) {
    auto block = ReadFile(it->second.temporary, protocols::kBlockBytes);
    // It may just have got its name.
    if (block || block.error().code() != Code::kNotFound) return block;
  }
  if (removing_.contains(id)) return NotFound("block {} was removed", ToHex(id));
  return ReadFile(path, protocols::kBlockBytes);
}

Result<Bytes> BlockStore::Get(const Digest& id) {
  TG_ASSIGN_OR_RETURN(Bytes block, GetUnverified(id));
  if (BlockId(block) == id) return block;
  TG_RETURN_IF_ERROR(Remove(id));
  return DataLoss("block {} of {} is damaged and was removed", ToHex(id), dir_.native());
}

bool BlockStore::Has(const Digest& id) const {
  std::error_code error;
  return unnamed_.contains(id) || (!removing_.contains(id) && fs::exists(PathOf(id), error));
}

Status BlockStore::Remove(const Digest& id) {
  auto it = unnamed_.find(id);
  if (it != unnamed_.end() && !it->second.file.valid()) {
    tasks_->Wait();
    Collect();
    it = unnamed_.find(id);
  }
  const bool written = it != unnamed_.end();
  const fs::path path = written ? it->second.temporary : PathOf(id);
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  if (error || removing_.contains(id)) return OkStatus();
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus("remove", path.native(), errno);
  }
  if (written) {
    written_bytes_ -= it->second.size;
    unnamed_.erase(it);
  }
  used_ -= std::min(used_, size);
  return OkStatus();
}

Status BlockStore::RemoveSoon(const Digest& id) {
  if (unnamed_.contains(id) || !tasks_->started()) return Remove(id);
  const fs::path path = PathOf(id);
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  if (error || !removing_.insert(id).second) return OkStatus();
  used_ -= std::min(used_, size);
  if (size == protocols::kBlockBytes && tasks_->spares() < kMostSpares) {
    tasks_->Recycle(path, Temporary(dir_ / fmt::format("spare-{}", ++recycled_)));
  } else {
    tasks_->Unlink(path);
  }
  return OkStatus();
}

Result<std::vector<Digest>> BlockStore::List() const {
  TG_ASSIGN_OR_RETURN(const Listing listing, ListFolder(dir_));
  std::vector<Digest> ids;
  for (const auto& [id, size] : listing.blocks) {
    if (!removing_.contains(id)) ids.push_back(id);
  }
  for (const auto& [id, unnamed] : unnamed_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  // One that has just got its name is among both.
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace tidegate::blocks
