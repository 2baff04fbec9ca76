#include "federation/server/split_secrets.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/file.h"
#include "crypto/hash.h"
#include "crypto/random.h"

namespace tidegate::federation {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxSecret = 64;

// Overwritten, on the disk, and then removed.
Status EraseFile(const fs::path& path) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) {
    return errno == ENOENT ? OkStatus() : ErrnoStatus("open", path.native(), errno);
  }
  TG_RETURN_IF_ERROR(WriteAll(fd.get(), Bytes(kMaxSecret, 0), path.native()));
  if (::fdatasync(fd.get()) != 0) return ErrnoStatus("fsync", path.native(), errno);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus("remove", path.native(), errno);
  }
  return OkStatus();
}

}  // namespace

Result<SplitSecrets> SplitSecrets::Open(const fs::path& dir) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (!error) fs::permissions(dir, fs::perms::owner_all, error);
  if (error) return Unavailable("cannot make {}: {}", dir.native(), error.message());
  return SplitSecrets(dir);
}

fs::path SplitSecrets::PathOf(ByteSpan half) const {
  return dir_ / ToHex(crypto::Sha256::Of(half));
}

Result<Bytes> SplitSecrets::Split(ByteSpan secret) const {
  if (secret.size() > kMaxSecret) return Internal("a secret of {} bytes", secret.size());
  Bytes half(secret.size());
  TG_RETURN_IF_ERROR(crypto::FillRandom(half));
  crypto::SecretBytes other(secret.size());
  for (size_t i = 0; i < half.size(); ++i) other.reveal_mutable()[i] = secret[i] ^ half[i];
  TG_RETURN_IF_ERROR(WriteFileDurably(PathOf(half), other.reveal(), 0600));
  return half;
}

Result<crypto::SecretBytes> SplitSecrets::Join(ByteSpan half) const {
  auto other = ReadFile(PathOf(half), kMaxSecret);
  if (!other || other->size() != half.size()) {
    return DataLoss("the shared folder {} lacks its half of a round's key: {}", dir_.native(),
                    other ? "another size" : other.error().message());
  }
  crypto::SecretBytes secret(std::move(*other));
  for (size_t i = 0; i < half.size(); ++i) secret.reveal_mutable()[i] ^= half[i];
  return secret;
}

Status SplitSecrets::Erase() {
  for (const fs::path& path : std::exchange(later_, {})) TG_RETURN_IF_ERROR(EraseFile(path));
  return OkStatus();
}

Status SplitSecrets::EraseAllBut(const std::vector<Bytes>& halves) {
  std::set<fs::path> keep;
  for (const Bytes& half : halves) keep.insert(PathOf(half));
  std::error_code error;
  fs::directory_iterator it(dir_, error), end;
  for (; !error && it != end; it.increment(error)) {
    if (!keep.contains(it->path())) TG_RETURN_IF_ERROR(EraseFile(it->path()));
  }
  if (error) return Unavailable("cannot list {}: {}", dir_.native(), error.message());
  return OkStatus();
}

}  // namespace tidegate::federation
