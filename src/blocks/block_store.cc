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
constexpr uint64_t kSyncBytes = 2u << 20;

fs::path Temporary(fs::path path) {
  path += kTemporary;
  return path;
}

// Files written to the disk together: it begins with all of them before it waits for the first.
Status SyncFiles(const std::vector<fs::path>& paths) {
  std::vector<Fd> open;
  for (const fs::path& path : paths) {
    open.emplace_back(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!open.back().valid()) return ErrnoStatus("open", path.native(), errno);
    // Only a hint: what fails here fails in fdatasync.
    ::sync_file_range(open.back().get(), 0, 0, SYNC_FILE_RANGE_WRITE);
  }
  for (size_t i = 0; i < paths.size(); ++i) {
    if (::fdatasync(open[i].get()) != 0) return ErrnoStatus("fsync", paths[i].native(), errno);
  }
  return OkStatus();
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
  if (fs::exists(path, error)) {
    // Perhaps put by a process that ended before its Sync.
    unsynced_.insert({dir_, path.parent_path()});
    return OkStatus();
  }
  if (block.size() > quota_ || used_ > quota_ - block.size()) {
    return ResourceExhausted(
        "the block store {} holds {} bytes, a block of {} would pass its quota of {}; raise the "
        "quota or remove what is no longer needed",
        dir_.native(), used_, block.size(), quota_);
  }
  if (fs::create_directory(path.parent_path(), error)) unsynced_.insert(dir_);
  if (error) return Unavailable("cannot make {}: {}", path.parent_path().native(), error.message());
  const fs::path temporary = Temporary(path);
  {
    const Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd.valid()) return ErrnoStatus("create", temporary.native(), errno);
    const Status status = WriteAll(fd.get(), block, temporary.native());
    if (!status.ok()) {
      ::unlink(temporary.c_str());
      return status;
    }
  }
  used_ += block.size();
  unnamed_.emplace(id, block.size());
  unnamed_bytes_ += block.size();
  if (unnamed_bytes_ < kSyncBytes) return OkStatus();
  const Status status = Sync();
  // Blocks that other callers put are gone too: whoever asks for a Sync must hear of it.
  if (!status.ok()) lost_ = status;
  return status;
}

Status BlockStore::Sync() {
  const Status status = NameBlocks();
  ForgetUnnamed();
  TG_RETURN_IF_ERROR(std::exchange(lost_, OkStatus()));
  TG_RETURN_IF_ERROR(status);
  for (const fs::path& directory : unsynced_) TG_RETURN_IF_ERROR(SyncDirectory(directory));
  unsynced_.clear();
  return OkStatus();
}

Status BlockStore::NameBlocks() {
  std::vector<fs::path> paths;
  for (const auto& [id, size] : unnamed_) paths.push_back(Temporary(PathOf(id)));
  TG_RETURN_IF_ERROR(SyncFiles(paths));
  for (auto it = unnamed_.begin(); it != unnamed_.end(); it = unnamed_.erase(it)) {
    const fs::path path = PathOf(it->first);
    if (::rename(Temporary(path).c_str(), path.c_str()) != 0) {
      return ErrnoStatus("rename to", path.native(), errno);
    }
    unsynced_.insert(path.parent_path());
  }
  return OkStatus();
}

// After a failed fsync nothing says which bytes reached the disk: what has no name is put anew.
void BlockStore::ForgetUnnamed() {
  for (const auto& [id, size] : unnamed_) {
    ::unlink(Temporary(PathOf(id)).c_str());
    used_ -= std::min(used_, size);
  }
  unnamed_.clear();
  unnamed_bytes_ = 0;
}

fs::path BlockStore::PlaceOf(const Digest& id) const {
  return unnamed_.contains(id) ? Temporary(PathOf(id)) : PathOf(id);
}

Result<Bytes> BlockStore::GetUnverified(const Digest& id) const {
  return ReadFile(PlaceOf(id), protocols::kBlockBytes);
}

Result<Bytes> BlockStore::Get(const Digest& id) {
  TG_ASSIGN_OR_RETURN(Bytes block, GetUnverified(id));
  if (BlockId(block) == id) return block;
  TG_RETURN_IF_ERROR(Remove(id));
  return DataLoss("block {} of {} is damaged and was removed", ToHex(id), dir_.native());
}

bool BlockStore::Has(const Digest& id) const {
  std::error_code error;
  return unnamed_.contains(id) || fs::exists(PathOf(id), error);
}

Status BlockStore::Remove(const Digest& id) {
  const fs::path path = PlaceOf(id);
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  if (error) return OkStatus();
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus("remove", path.native(), errno);
  }
  if (const auto it = unnamed_.find(id); it != unnamed_.end()) {
    unnamed_bytes_ -= it->second;
    unnamed_.erase(it);
  }
  used_ -= std::min(used_, size);
  return OkStatus();
}

Result<std::vector<Digest>> BlockStore::List() const {
  TG_ASSIGN_OR_RETURN(const Listing listing, ListFolder(dir_));
  std::vector<Digest> ids;
  for (const auto& [id, size] : listing.blocks) ids.push_back(id);
  for (const auto& [id, size] : unnamed_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace tidegate::blocks
