// Files: read whole with a limit, write durably, map read-only, own a descriptor.
// Errors name the path, the system's reason and, for limits, the limit.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace tidegate {

// An owned file descriptor. Move-only.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { reset(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void reset();

 private:
  int fd_ = -1;
};

// The Status of a failed system call: "cannot ACTION PATH: strerror", kResourceExhausted for
// ENOSPC/EDQUOT, kNotFound for ENOENT, kPermissionDenied for EACCES/EPERM.
Status ErrnoStatus(std::string_view action, std::string_view path, int error);

// Reads a regular file of at most `limit` bytes.
Result<Bytes> ReadFile(const std::filesystem::path& path, uint64_t limit);
Result<std::string> ReadTextFile(const std::filesystem::path& path, uint64_t limit);

// Opens a regular file for reading; to be read with pread at offsets of the reader's own.
// "/dev/fd/N" is the inherited descriptor N itself: its file may be one that this process could not
// open, or that has no name. kInvalidArgument for what is no regular file.
Result<Fd> OpenToRead(const std::filesystem::path& path);
// N of "/dev/fd/N"; nothing for other paths.
std::optional<int> InheritedDescriptor(const std::filesystem::path& path);

// Durable replace: PATH.tmp, write, fsync, rename, fsync of the directory. Either the old or the
// new content is there after a crash, whole. `mode` is the permission of the new file.
Status WriteFileDurably(const std::filesystem::path& path, ByteSpan content, unsigned mode = 0644);

// fsync of a directory, so that renames and new names in it survive a crash.
Status SyncDirectory(const std::filesystem::path& directory);

// Writes all of `content` at the descriptor's position (short writes are continued).
Status WriteAll(int fd, ByteSpan content, std::string_view name);

// A file mapped read-only and private. The bytes live as long as the object; the file must not be
// truncated meanwhile (a mapped file that shrinks kills the reader).
class MappedFile {
 public:
  static Result<MappedFile> Open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  ByteSpan bytes() const { return {data_, size_}; }

 private:
  MappedFile(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace tidegate
