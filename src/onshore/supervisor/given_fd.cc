#include "onshore/supervisor/given_fd.h"

#include <fcntl.h>
#include <sys/stat.h>

namespace tidegate::onshore {
namespace {

// From what the kernel has: a file system in user space or on a network is not asked.
bool Look(int fd, struct statx* out) {
  return ::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE, out) == 0 &&
         (out->stx_mask & STATX_TYPE) != 0;
}

}  // namespace

std::optional<uint64_t> ReadOnlyFileBytes(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0 || (flags & O_ACCMODE) != O_RDONLY) return std::nullopt;
  struct statx info {};
  if (!Look(fd, &info) || !S_ISREG(info.stx_mode)) return std::nullopt;
  return info.stx_size;
}

bool IsPipe(int fd) {
  struct statx info {};
  return Look(fd, &info) && S_ISFIFO(info.stx_mode);
}

}  // namespace tidegate::onshore
