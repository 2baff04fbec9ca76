#include "onshore/sandbox/fd_audit.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"

namespace tidegate::onshore {
namespace {

constexpr int kSoPassRights = 83;  // Linux 6.16

int SocketOption(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof(value);
  if (::getsockopt(fd, SOL_SOCKET, option, &value, &size) != 0) return -1;
  return value;
}

bool IsNull(const struct stat& info) {
  return S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 3);
}

// One end of a socketpair: a connected peer without a name. (A peer with a name is a service that
// somebody connected to.)
bool IsChannel(int fd, const struct stat& info) {
  if (!S_ISSOCK(info.st_mode) || SocketOption(fd, SO_DOMAIN) != AF_UNIX ||
      SocketOption(fd, SO_TYPE) != SOCK_SEQPACKET || SocketOption(fd, SO_ACCEPTCONN) != 0) {
    return false;
  }
  sockaddr_un own{};
  sockaddr_un peer{};
  socklen_t own_size = sizeof(own);
  socklen_t peer_size = sizeof(peer);
  return ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) == 0 &&
         ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0 &&
         own_size == sizeof(sa_family_t) && peer_size == sizeof(sa_family_t);
}

bool IsOfKind(int fd, FdKind kind, const struct stat& info) {
  switch (kind) {
    case FdKind::kChannel:
      return IsChannel(fd, info);
    case FdKind::kPipe:
      return S_ISFIFO(info.st_mode);
    case FdKind::kNull:
      return IsNull(info);
    case FdKind::kReadOnlyFile: {
      const int flags = ::fcntl(fd, F_GETFL);
      return S_ISREG(info.st_mode) && flags >= 0 && (flags & O_PATH) == 0 &&
             (flags & O_ACCMODE) == O_RDONLY;
    }
  }
  return false;
}

Status CloseGaps(std::vector<int> stay, const WallFaults& faults) {
  if (faults.close_range_error != 0) {
    return ErrnoStatus("close", "inherited descriptors", faults.close_range_error);
  }
  std::sort(stay.begin(), stay.end());
  unsigned first = 3;
  for (int fd : stay) {
    const unsigned number = static_cast<unsigned>(fd);
    if (number > first && ::close_range(first, number - 1, 0) != 0) {
      return ErrnoStatus("close", "inherited descriptors", errno);
    }
    first = std::max(first, number + 1);
  }
  if (::close_range(first, ~0U, 0) != 0) {
    return ErrnoStatus("close", "inherited descriptors", errno);
  }
  return OkStatus();
}

}  // namespace

std::string DescribeFd(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return "not open";
  if (S_ISSOCK(info.st_mode)) {
    const int domain = SocketOption(fd, SO_DOMAIN);
    const int type = SocketOption(fd, SO_TYPE);
    const std::string family = domain == AF_UNIX    ? "AF_UNIX"
                               : domain == AF_INET  ? "AF_INET"
                               : domain == AF_INET6 ? "AF_INET6"
                                                    : fmt::format("family {}", domain);
    const std::string kind = type == SOCK_STREAM      ? "SOCK_STREAM"
                             : type == SOCK_DGRAM     ? "SOCK_DGRAM"
                             : type == SOCK_SEQPACKET ? "SOCK_SEQPACKET"
                                                      : fmt::format("type {}", type);
    return fmt::format("a {} {} socket", kind, family);
  }
  if (S_ISDIR(info.st_mode)) return "a directory";
  if (S_ISFIFO(info.st_mode)) return "a pipe";
  if (IsNull(info)) return "/dev/null";
  if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)) {
    return fmt::format("device {}:{}", major(info.st_rdev), minor(info.st_rdev));
  }
  if (S_ISREG(info.st_mode)) {
    const int flags = ::fcntl(fd, F_GETFL);
    return (flags & O_ACCMODE) == O_RDONLY ? "a regular file" : "a regular file open for writing";
  }
  return "an anonymous kernel object";
}

Status AuditFds(const std::vector<KeptFd>& kept, const WallFaults& faults, int* passrights_error) {
  *passrights_error = 0;
  std::vector<int> stay;
  for (const KeptFd& entry : kept) {
    if (entry.fd < 3) {
      return InvalidArgument("descriptor {} may not be on the list of kept ones; start at 3",
                             entry.fd);
    }
    stay.push_back(entry.fd);
  }
  TG_RETURN_IF_ERROR(CloseGaps(stay, faults));
  for (int fd = 0; fd <= 2; ++fd) {
    struct stat info {};
    if (::fstat(fd, &info) != 0 || !(IsNull(info) || S_ISFIFO(info.st_mode))) {
      return PermissionDenied(
          "descriptor {} is {}; a walled process has /dev/null or a pipe there: start it through "
          "the supervisor",
          fd, DescribeFd(fd));
    }
  }
  for (const KeptFd& entry : kept) {
    struct stat info {};
    if (::fstat(entry.fd, &info) != 0 || !IsOfKind(entry.fd, entry.kind, info)) {
      return PermissionDenied("inherited descriptor {} is {}, but must be a {}; it was not kept",
                              entry.fd, DescribeFd(entry.fd), FdKindName(entry.kind));
    }
    if (entry.kind == FdKind::kChannel) {
      const int off = 0;
      if (faults.passrights_error != 0) {
        *passrights_error = faults.passrights_error;
      } else if (::setsockopt(entry.fd, SOL_SOCKET, kSoPassRights, &off, sizeof(off)) != 0) {
        *passrights_error = errno;
      }
    }
  }
  return OkStatus();
}

}  // namespace tidegate::onshore
