#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace tidegate {

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Status ErrnoStatus(std::string_view action, std::string_view path, int error) {
  Code code = Code::kInternal;
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      code = Code::kNotFound;
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = Code::kPermissionDenied;
      break;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      code = Code::kResourceExhausted;
      break;
    case EEXIST:
      code = Code::kAlreadyExists;
      break;
    case EIO:
      code = Code::kDataLoss;
      break;
    case EISDIR:
    case EINVAL:
      code = Code::kInvalidArgument;
      break;
    default:
      break;
  }
  return MakeError(code, "cannot {} {}: {}", action, path, std::strerror(error));
}

namespace {

Result<Fd> OpenRegular(const std::filesystem::path& path, uint64_t* size) {
  // O_NONBLOCK: a pipe without a writer is refused below instead of waited for.
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open", path.native(), errno));
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return Unexpected(ErrnoStatus("stat", path.native(), errno));
  if (!S_ISREG(st.st_mode)) {
    return InvalidArgument("{} is not a regular file; give the path of a file", path.native());
  }
  *size = static_cast<uint64_t>(st.st_size);
  return fd;
}

}  // namespace

std::optional<int> InheritedDescriptor(const std::filesystem::path& path) {
  constexpr std::string_view kFolder = "/dev/fd/";
  const std::string& text = path.native();
  if (!text.starts_with(kFolder)) return std::nullopt;
  int number = -1;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + kFolder.size(), end, number);
  if (error != std::errc() || rest != end || number < 0) return std::nullopt;
  return number;
}

Result<Fd> OpenToRead(const std::filesystem::path& path) {
  const std::optional<int> inherited = InheritedDescriptor(path);
  // O_NONBLOCK: a pipe without a writer is refused below instead of waited for.
  Fd fd(inherited ? ::fcntl(*inherited, F_DUPFD_CLOEXEC, 3)
                  : ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open", path.native(), errno));
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return Unexpected(ErrnoStatus("stat", path.native(), errno));
  if (!S_ISREG(st.st_mode)) {
    return InvalidArgument("{} is not a regular file; give the path of one", path.native());
  }
  return fd;
}

Result<Bytes> ReadFile(const std::filesystem::path& path, uint64_t limit) {
  uint64_t size = 0;
  TG_ASSIGN_OR_RETURN(const Fd fd, OpenRegular(path, &size));
  if (size > limit) {
    return ResourceExhausted("{} has {} bytes, the limit is {}", path.native(), size, limit);
  }
  Bytes out(size);
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::read(fd.get(), out.data() + done, out.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unexpected(ErrnoStatus("read", path.native(), errno));
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  out.resize(done);
  return out;
}

Result<std::string> ReadTextFile(const std::filesystem::path& path, uint64_t limit) {
  TG_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, limit));
  return std::string(AsText(bytes));
}

Status WriteAll(int fd, ByteSpan content, std::string_view name) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("write", name, errno);
    content = content.subspan(static_cast<size_t>(n));
  }
  return OkStatus();
}

Status SyncDirectory(const std::filesystem::path& directory) {
  const std::filesystem::path dir = directory.empty() ? "." : directory;
  const Fd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus("open", dir.native(), errno);
  if (::fsync(fd.get()) != 0) return ErrnoStatus("fsync", dir.native(), errno);
  return OkStatus();
}

Status WriteFileDurably(const std::filesystem::path& path, ByteSpan content, unsigned mode) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  {
    // A leftover of a crash may have another mode; O_EXCL after unlink gives ours.
    ::unlink(temporary.c_str());
    const Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (!fd.valid()) return ErrnoStatus("create", temporary.native(), errno);
    Status status = WriteAll(fd.get(), content, temporary.native());
    if (status.ok() && ::fsync(fd.get()) != 0) {
      status = ErrnoStatus("fsync", temporary.native(), errno);
    }
    if (!status.ok()) {
      ::unlink(temporary.c_str());
      return status;
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    return ErrnoStatus("rename to", path.native(), error);
  }
  return SyncDirectory(path.parent_path());
}

Result<MappedFile> MappedFile::Open(const std::filesystem::path& path) {
  uint64_t size = 0;
  TG_ASSIGN_OR_RETURN(const Fd fd, OpenRegular(path, &size));
  if (size == 0) return MappedFile(nullptr, 0);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) return Unexpected(ErrnoStatus("map", path.native(), errno));
  return MappedFile(static_cast<const uint8_t*>(data), size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace tidegate
