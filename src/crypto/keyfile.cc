#include "crypto/keyfile.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/file.h"
#include "crypto/armor.h"

namespace tidegate::crypto {

namespace {

constexpr std::string_view kSigningLabel = "ED25519 KEY";
constexpr std::string_view kCurveLabel = "CURVE KEY";
constexpr size_t kMaxFileBytes = 4096;

Status CheckStat(const struct stat& st, const std::string& path) {
  if (!S_ISREG(st.st_mode)) {
    return InvalidArgument("{} is not a regular file; a key is kept in one", path);
  }
  if (st.st_uid != ::geteuid()) {
    return PermissionDenied(
        "the key file {} belongs to user {}, this process runs as user {}; run `chown {} {}`", path,
        st.st_uid, ::geteuid(), ::geteuid(), path);
  }
  // Read by its owner, written by its owner, and nothing else: no set-id bit, none to execute.
  if ((st.st_mode & 07777 & ~0600u) != 0) {
    return PermissionDenied(
        "the key file {} has mode {:04o} and may have 0600 or 0400 alone; run `chmod 600 {}`, and "
        "make a new key if others had access",
        path, static_cast<unsigned>(st.st_mode & 07777), path);
  }
  if (static_cast<uint64_t>(st.st_size) > kMaxFileBytes) {
    return InvalidArgument("{} has {} bytes, a key file has at most {}", path, st.st_size,
                           kMaxFileBytes);
  }
  return OkStatus();
}

// The opened file after all checks; on the descriptor, so that nothing can be put in its place.
Result<Fd> OpenKeyFile(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid() && errno == ELOOP) {
    return PermissionDenied("the key file {} is a symbolic link; give the path of the file itself",
                            path);
  }
  if (!fd.valid()) return Unexpected(ErrnoStatus("open key file", path, errno));
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return Unexpected(ErrnoStatus("stat", path, errno));
  TG_RETURN_IF_ERROR(CheckStat(st, path));
  return fd;
}

Result<SecretBytes> ReadSecret(const std::filesystem::path& file, std::string_view label) {
  const std::string path = file.native();
  TG_ASSIGN_OR_RETURN(const Fd fd, OpenKeyFile(path));
  SecretBytes text(kMaxFileBytes + 1);
  const auto buffer = text.reveal_mutable();
  size_t size = 0;
  while (size < buffer.size()) {
    const ssize_t n = ::read(fd.get(), buffer.data() + size, buffer.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unexpected(ErrnoStatus("read", path, errno));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  auto content = DecodeArmor(label, AsText(text.reveal().first(size)));
  if (!content) return Unexpected(content.error().WithContext("key file " + path));
  return SecretBytes(std::move(*content));
}

// The temporary file beside a key file, held against every other writer of the same key. One that a
// crash left is taken over. Removed unless it was renamed.
class TemporaryKeyFile {
 public:
  static Result<TemporaryKeyFile> Take(const std::string& path) {
    TemporaryKeyFile file(path + ".tmp");
    const Error busy = AlreadyExists("another process is writing {} now", path);
    file.fd_ = Fd(::open(file.name_.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file.fd_.valid()) return Unexpected(ErrnoStatus("create", file.name_, errno));
    if (::flock(file.fd_.get(), LOCK_EX | LOCK_NB) != 0) return Unexpected(busy);
    // Whoever had it may have renamed it between our open and our lock: then it is a key.
    struct stat held, named;
    if (::fstat(file.fd_.get(), &held) != 0 || ::lstat(file.name_.c_str(), &named) != 0 ||
        held.st_ino != named.st_ino || held.st_dev != named.st_dev) {
      return Unexpected(busy);
    }
    file.ours_ = true;
    if (!S_ISREG(held.st_mode) || held.st_uid != ::geteuid()) {
      return PermissionDenied("{} is there and is not this user's file; remove it", file.name_);
    }
    if (::fchmod(file.fd_.get(), 0600) != 0 || ::ftruncate(file.fd_.get(), 0) != 0) {
      return Unexpected(ErrnoStatus("empty", file.name_, errno));
    }
    return file;
  }
  TemporaryKeyFile(TemporaryKeyFile&& other) noexcept
      : name_(std::move(other.name_)),
        fd_(std::move(other.fd_)),
        ours_(std::exchange(other.ours_, false)) {}
  ~TemporaryKeyFile() {
    if (ours_) ::unlink(name_.c_str());
  }

  Status WriteAndRename(ByteSpan content, const std::filesystem::path& path) {
    TG_RETURN_IF_ERROR(WriteAll(fd_.get(), content, name_));
    if (::fsync(fd_.get()) != 0) return ErrnoStatus("fsync", name_, errno);
    if (::rename(name_.c_str(), path.c_str()) != 0) {
      return ErrnoStatus("rename to", path.native(), errno);
    }
    ours_ = false;
    return SyncDirectory(path.parent_path());
  }

 private:
  explicit TemporaryKeyFile(std::string name) : name_(std::move(name)) {}
  std::string name_;
  Fd fd_;
  bool ours_ = false;
};

Status WriteSecret(const std::filesystem::path& file, std::string_view label, ByteSpan secret) {
  TG_ASSIGN_OR_RETURN(auto temporary, TemporaryKeyFile::Take(file.native()));
  // Looked for while no other writer can put one there.
  struct stat st;
  if (::lstat(file.c_str(), &st) == 0) {
    return AlreadyExists("{} exists and a key file is never replaced; move it away first",
                         file.native());
  }
  if (errno != ENOENT) return ErrnoStatus("look for", file.native(), errno);
  TG_ASSIGN_OR_RETURN(std::string text, EncodeArmor(label, secret));
  const Status status = temporary.WriteAndRename(AsBytes(text), file);
  Cleanse(text.data(), text.size());
  return status;
}

}  // namespace

Result<CurveKeyPair> CurveKeyPair::Generate() {
  TG_ASSIGN_OR_RETURN(const AgreeSecretKey key, AgreeSecretKey::Generate());
  return FromBytes(key.Serialize().reveal(), key.public_key().bytes());
}

Result<CurveKeyPair> CurveKeyPair::FromBytes(ByteSpan secret, ByteSpan public_key) {
  CurveKeyPair pair;
  TG_ASSIGN_OR_RETURN(pair.secret_, MakeSecret<32>(secret, "a CURVE secret key"));
  // Both are X25519, so the public half can be computed and compared.
  TG_ASSIGN_OR_RETURN(const AgreeSecretKey key, AgreeSecretKey::FromBytes(secret));
  if (!Equal(key.public_key().bytes(), public_key)) {
    return InvalidArgument("the public half of the CURVE key does not belong to its secret half");
  }
  std::copy(public_key.begin(), public_key.end(), pair.public_key_.begin());
  return pair;
}

Status WriteKeyFile(const std::filesystem::path& path, const SigningKey& key) {
  return WriteSecret(path, kSigningLabel, key.seed().reveal());
}

Status WriteKeyFile(const std::filesystem::path& path, const CurveKeyPair& key) {
  Secret<64> both;
  const auto out = both.reveal_mutable();
  std::copy_n(key.secret().reveal().begin(), 32, out.begin());
  std::copy_n(key.public_key().begin(), 32, out.begin() + 32);
  return WriteSecret(path, kCurveLabel, both.reveal());
}

Result<SigningKey> ReadSigningKey(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(const SecretBytes bytes, ReadSecret(path, kSigningLabel));
  TG_ASSIGN_OR_RETURN(const auto seed, MakeSecret<32>(bytes.reveal(), path.native()));
  return SigningKey::FromSeed(seed);
}

Result<CurveKeyPair> ReadCurveKey(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(const SecretBytes bytes, ReadSecret(path, kCurveLabel));
  if (bytes.size() != 64) {
    return InvalidArgument("{} holds {} bytes, a CURVE key has 64", path.native(), bytes.size());
  }
  return CurveKeyPair::FromBytes(bytes.reveal().first(32), bytes.reveal().last(32));
}

}  // namespace tidegate::crypto
