#include "blocks/block_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "blocks/content.h"

namespace tidegate::blocks {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporary = ".tmp";

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
  const fs::path path = PathOf(id);
  std::error_code error;
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
  fs::path temporary = path;
  temporary += kTemporary;
  {
    const Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd.valid()) return ErrnoStatus("create", temporary.native(), errno);
    Status status = WriteAll(fd.get(), block, temporary.native());
    if (status.ok() && ::fdatasync(fd.get()) != 0) {
      status = ErrnoStatus("fsync", temporary.native(), errno);
    }
    if (!status.ok()) {
      ::unlink(temporary.c_str());
      return status;
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int failed = errno;
    ::unlink(temporary.c_str());
    return ErrnoStatus("rename to", path.native(), failed);
  }
  used_ += block.size();
  unsynced_.insert(path.parent_path());
  return OkStatus();
}

Status BlockStore::Sync() {
  for (const fs::path& directory : unsynced_) TG_RETURN_IF_ERROR(SyncDirectory(directory));
  unsynced_.clear();
  return OkStatus();
}

Result<Bytes> BlockStore::Get(const Digest& id) {
  TG_ASSIGN_OR_RETURN(Bytes block, ReadFile(PathOf(id), protocols::kBlockBytes));
  if (BlockId(block) == id) return block;
  TG_RETURN_IF_ERROR(Remove(id));
  return DataLoss("block {} of {} is damaged and was removed", ToHex(id), dir_.native());
}

bool BlockStore::Has(const Digest& id) const {
  std::error_code error;
  return fs::exists(PathOf(id), error);
}

Status BlockStore::Remove(const Digest& id) {
  const fs::path path = PathOf(id);
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  if (error) return OkStatus();
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus("remove", path.native(), errno);
  }
  used_ -= std::min(used_, size);
  return OkStatus();
}

Result<std::vector<Digest>> BlockStore::List() const {
  TG_ASSIGN_OR_RETURN(const Listing listing, ListFolder(dir_));
  std::vector<Digest> ids;
  for (const auto& [id, size] : listing.blocks) ids.push_back(id);
  return ids;
}

}  // namespace tidegate::blocks
