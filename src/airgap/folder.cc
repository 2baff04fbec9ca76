#include "airgap/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "crypto/hash.h"
#include "protocols/limits.h"

namespace tidegate::airgap {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRooms[] = {"blocks", "up", "down"};
constexpr std::string_view kTemporary = ".tmp";
constexpr mode_t kFileMode = 0644, kFolderMode = 0755;
constexpr size_t kMaxRootEntries = 64;

bool IsPlain(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

// A name of somebody else's in an error: what is not printable is not printed.
std::string Printable(std::string name) {
  for (char& c : name) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return name;
}

std::string BlockName(const Digest& id) { return ToHex(id).substr(2); }
std::string BlockRoom(const Digest& id) { return ToHex(id).substr(0, 2); }
Place BlockPlace(const Digest& id) { return {"blocks", BlockRoom(id), BlockName(id)}; }

// The names in an open folder, without "." and "..".
Result<std::vector<std::string>> NamesIn(const Fd& dir, size_t most, const std::string& name) {
  const int copy = ::openat(dir.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return Unexpected(ErrnoStatus("list", name, errno));
  DIR* list = ::fdopendir(copy);
  if (list == nullptr) {
    ::close(copy);
    return Unexpected(ErrnoStatus("list", name, errno));
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> closed(list, ::closedir);
  std::vector<std::string> names;
  for (errno = 0; const dirent* entry = ::readdir(list); errno = 0) {
    const std::string_view one(entry->d_name);
    if (one == "." || one == "..") continue;
    if (names.size() >= most) {
      return ResourceExhausted("{} holds more than {} entries; remove what is not of this job",
                               name, most);
    }
    names.emplace_back(one);
  }
  if (errno != 0) return Unexpected(ErrnoStatus("list", name, errno));
  std::sort(names.begin(), names.end());
  return names;
}

Status SyncDir(const Fd& dir, const std::string& name) {
  // A medium whose file system can sync no folders says EINVAL.
  if (::fsync(dir.get()) != 0 && errno != EINVAL) return ErrnoStatus("fsync", name, errno);
  return OkStatus();
}

// By the system call: libc's function tries another one that walls do not know.
int RenameIn(const Fd& dir, const std::string& from, const std::string& to) {
  return static_cast<int>(
      ::syscall(SYS_renameat2, dir.get(), from.c_str(), dir.get(), to.c_str(), 0));
}

}  // namespace

Status Folder::CheckRoot(const fs::path& root, const std::string& name) {
  const Fd fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus("open the folder", name, errno);
  TG_ASSIGN_OR_RETURN(const auto names, NamesIn(fd, kMaxRootEntries, name));
  for (const std::string& entry : names) {
    if (std::find(std::begin(kRooms), std::end(kRooms), entry) != std::end(kRooms)) continue;
    return InvalidArgument(
        "{}/{}: a folder for the air gap holds blocks, up and down and nothing else; give it a "
        "folder of its own on the medium",
        name, Printable(entry));
  }
  return OkStatus();
}

Result<Folder> Folder::Open(const fs::path& root, const std::string& name) {
  TG_RETURN_IF_ERROR(CheckRoot(root, name));
  Fd fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open the folder", name, errno));
  Folder folder(std::move(fd), name);
  for (const char* room : kRooms) {
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto made, folder.OpenDir({room}, 1, true));
  }
  return folder;
}

std::string Folder::NameOf(const Place& place) const {
  std::string name = name_;
  for (const std::string& part : place) name += "/" + Printable(part);
  return name;
}

Result<std::optional<Fd>> Folder::OpenDir(const Place& place, size_t depth, bool make) const {
  Fd dir(::openat(root_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir.valid()) return Unexpected(ErrnoStatus("open", name_, errno));
  for (size_t i = 0; i < depth; ++i) {
    if (!IsPlain(place[i])) return InvalidArgument("{} is no name", NameOf({place[i]}));
    const Place here(place.begin(), place.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int next = ::openat(dir.get(), place[i].c_str(), kFlags);
    if (next < 0 && errno == ENOENT && !make) return std::nullopt;
    if (next < 0 && errno == ENOENT) {
      if (::mkdirat(dir.get(), place[i].c_str(), kFolderMode) != 0 && errno != EEXIST) {
        return Unexpected(ErrnoStatus("make", NameOf(here), errno));
      }
      TG_RETURN_IF_ERROR(SyncDir(dir, NameOf(here)));
      next = ::openat(dir.get(), place[i].c_str(), kFlags);
    }
    if (next < 0 && (errno == ENOTDIR || errno == ELOOP)) {
      return InvalidArgument("{} is no folder; links are not followed", NameOf(here));
    }
    if (next < 0) return Unexpected(ErrnoStatus("open", NameOf(here), errno));
    dir = Fd(next);
  }
  return std::optional<Fd>(std::move(dir));
}

Result<std::optional<Bytes>> Folder::Read(const Place& place, uint64_t limit) const {
  const std::string name = NameOf(place);
  if (!IsPlain(place.back())) return InvalidArgument("{} is no name", name);
  TG_ASSIGN_OR_RETURN(const auto dir, OpenDir(place, place.size() - 1, false));
  if (!dir) return std::nullopt;
  // Not blocking: a pipe of somebody's is not waited for.
  const Fd fd(
      ::openat(dir->get(), place.back().c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return std::nullopt;
  if (!fd.valid() && errno == ELOOP) {
    return InvalidArgument("{} is a link; links are not followed", name);
  }
  if (!fd.valid()) return Unexpected(ErrnoStatus("open", name, errno));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return Unexpected(ErrnoStatus("look at", name, errno));
  if (!S_ISREG(info.st_mode)) return InvalidArgument("{} is no regular file", name);
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size > limit) {
    return ResourceExhausted("{} has {} bytes, at most {} are read", name, size, limit);
  }
  Bytes bytes(size);
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t n = ::read(fd.get(), bytes.data() + at, bytes.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unexpected(ErrnoStatus("read", name, errno));
    if (n == 0) return DataLoss("{} became shorter while it was read", name);
    at += static_cast<size_t>(n);
  }
  return bytes;
}

// Writes and syncs the temporary; its name.
Result<std::string> Folder::WriteBeside(const Place& place, const Fd& dir, ByteSpan bytes) const {
  const std::string name = NameOf(place);
  std::string temporary = place.back() + std::string(kTemporary);
  if (::unlinkat(dir.get(), temporary.c_str(), 0) != 0 && errno != ENOENT) {
    return Unexpected(ErrnoStatus("replace", name + std::string(kTemporary), errno));
  }
  const Fd fd(::openat(dir.get(), temporary.c_str(),
                       O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  Status status = fd.valid() ? OkStatus() : ErrnoStatus("create", name, errno);
  if (status.ok()) status = WriteAll(fd.get(), bytes, name);
  if (status.ok() && ::fdatasync(fd.get()) != 0) status = ErrnoStatus("fsync", name, errno);
  if (status.ok()) return temporary;
  ::unlinkat(dir.get(), temporary.c_str(), 0);
  return Unexpected(status);
}

Status Folder::Write(const Place& place, ByteSpan bytes) {
  const auto there = Read(place, bytes.size());
  if (there && *there && std::ranges::equal(**there, bytes)) return OkStatus();
  const std::string name = NameOf(place);
  if (!IsPlain(place.back())) return InvalidArgument("{} is no name", name);
  TG_ASSIGN_OR_RETURN(const auto dir, OpenDir(place, place.size() - 1, true));
  TG_ASSIGN_OR_RETURN(const std::string temporary, WriteBeside(place, *dir, bytes));
  if (RenameIn(*dir, temporary, place.back()) != 0) {
    const Status status = ErrnoStatus("rename to", name, errno);
    ::unlinkat(dir->get(), temporary.c_str(), 0);
    return status;
  }
  return SyncDir(*dir, name);
}

Status Folder::Remove(const Place& place) {
  const std::string name = NameOf(place);
  if (!IsPlain(place.back())) return InvalidArgument("{} is no name", name);
  TG_ASSIGN_OR_RETURN(const auto dir, OpenDir(place, place.size() - 1, false));
  if (!dir || ::unlinkat(dir->get(), place.back().c_str(), 0) == 0 || errno == ENOENT) {
    return OkStatus();
  }
  return ErrnoStatus("remove", name, errno);
}

Result<std::vector<std::string>> Folder::List(const Place& place, size_t most) const {
  TG_ASSIGN_OR_RETURN(const auto dir, OpenDir(place, place.size(), false));
  if (!dir) return std::vector<std::string>();
  return NamesIn(*dir, most, NameOf(place));
}

Result<Bytes> Folder::Block(const Digest& id) const {
  const Place place = BlockPlace(id);
  TG_ASSIGN_OR_RETURN(auto block, Read(place, protocols::kBlockBytes));
  if (!block) return NotFound("{} is not there", NameOf(place));
  if (crypto::Sha256::Of(*block) == id) return std::move(*block);
  return DataLoss("{} does not have the bytes of its name; the medium is damaged, or was changed",
                  NameOf(place));
}

Status Folder::PutBlock(const Digest& id, ByteSpan block) {
  if (crypto::Sha256::Of(block) != id) {
    return InvalidArgument("a block does not have the bytes of its id");
  }
  const Place place = BlockPlace(id);
  TG_ASSIGN_OR_RETURN(const auto dir, OpenDir(place, 2, true));
  TG_ASSIGN_OR_RETURN(const std::string temporary, WriteBeside(place, *dir, block));
  if (RenameIn(*dir, temporary, place.back()) != 0) {
    return ErrnoStatus("rename to", NameOf(place), errno);
  }
  unsynced_.insert(place[1]);
  return OkStatus();
}

Status Folder::SyncBlocks() {
  for (const std::string& room : unsynced_) {
    TG_ASSIGN_OR_RETURN(const auto dir, OpenDir({"blocks", room}, 2, false));
    if (dir) TG_RETURN_IF_ERROR(SyncDir(*dir, NameOf({"blocks", room})));
  }
  unsynced_.clear();
  return OkStatus();
}

Status Folder::RemoveBlock(const Digest& id) { return Remove(BlockPlace(id)); }

Result<std::vector<Digest>> Folder::Blocks() {
  std::vector<Digest> ids;
  for (int first = 0; first < 256; ++first) {
    const std::string room = fmt::format("{:02x}", first);
    TG_ASSIGN_OR_RETURN(const auto names,
                        List({"blocks", room}, protocols::kMaxFolderBlocks - ids.size()));
    for (const std::string& name : names) {
      if (name.ends_with(kTemporary)) {
        TG_RETURN_IF_ERROR(Remove({"blocks", room, name}));
        continue;
      }
      const auto id = DigestFromHex(room + name);
      if (id && BlockName(*id) == name) ids.push_back(*id);
    }
  }
  return ids;
}

}  // namespace tidegate::airgap
