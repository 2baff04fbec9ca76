#include "blocks/block_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "blocks/content.h"

namespace tidegate::blocks {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporary = ".tmp";

}  // namespace

Result<BlockStore> BlockStore::Open(const fs::path& dir, uint64_t quota_bytes) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return Unavailable("cannot make {}: {}", dir.native(), error.message());
  BlockStore store(dir, quota_bytes);
  std::vector<fs::path> leftovers;
  for (fs::recursive_directory_iterator it(dir, error), end; !error && it != end;
       it.increment(error)) {
    if (!it->is_regular_file()) continue;
    if (it->path().extension() == kTemporary) {
      leftovers.push_back(it->path());
    } else {
      store.used_ += it->file_size();
    }
  }
  if (error) return Unavailable("cannot list {}: {}", dir.native(), error.message());
  for (const fs::path& path : leftovers) fs::remove(path, error);
  return store;
}

fs::path BlockStore::PathOf(const Digest& id) const {
  const std::string hex = ToHex(id);
  return dir_ / hex.substr(0, 2) / hex.substr(2);
}

Status BlockStore::Put(const Digest& id, ByteSpan block) {
  if (BlockId(block) != id) return InvalidArgument("a block does not have the bytes of its id");
  const fs::path path = PathOf(id);
  if (fs::exists(path)) return OkStatus();
  if (used_ + block.size() > quota_) {
    return ResourceExhausted("the block store {} is full: quota {} bytes", dir_.native(), quota_);
  }
  std::error_code error;
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
    return ErrnoStatus("rename to", path.native(), errno);
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
  std::vector<Digest> ids;
  std::error_code error;
  for (fs::recursive_directory_iterator it(dir_, error), end; !error && it != end;
       it.increment(error)) {
    if (!it->is_regular_file()) continue;
    const auto id = DigestFromHex(it->path().parent_path().filename().string() +
                                  it->path().filename().string());
    if (id) ids.push_back(*id);
  }
  if (error) return Unavailable("cannot list {}: {}", dir_.native(), error.message());
  return ids;
}

}  // namespace tidegate::blocks
