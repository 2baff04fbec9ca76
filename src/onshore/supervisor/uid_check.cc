#include "onshore/supervisor/uid_check.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "base/file.h"

namespace tidegate::onshore {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kCheckSeconds = 5;
constexpr size_t kMaxPath = 4096;

bool Denied(const fs::path& path, int mode) {
  return ::access(path.c_str(), mode) != 0 && errno == EACCES;
}

// The first folder on the way that may not be passed, or the path itself if that is what is denied.
fs::path FirstDenied(const fs::path& path, int mode) {
  fs::path way;
  for (const fs::path& part : path.parent_path()) {
    way /= part;
    if (Denied(way, X_OK)) return way;
  }
  return Denied(path, mode) ? path : fs::path();
}

fs::path FirstDeniedBelow(const fs::path& path) {
  std::error_code error;
  const bool folder = fs::is_directory(path, error);
  if (const fs::path denied = FirstDenied(path, folder ? R_OK | X_OK : R_OK); !denied.empty()) {
    return denied;
  }
  if (!folder) return {};
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    if (Denied(it->path(), it->is_directory(error) ? R_OK | X_OK : R_OK)) return it->path();
  }
  return {};
}

// Exit status 0: all is well; 1: what is written to `out` is denied.
[[noreturn]] void Check(uid_t uid, const std::vector<fs::path>& read, const fs::path& pass,
                        int out) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::alarm(kCheckSeconds);
  if (::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 ||
      ::setresuid(uid, uid, uid) != 0) {
    ::_exit(2);
  }
  fs::path denied = FirstDenied(pass, X_OK);
  for (auto it = read.begin(); denied.empty() && it != read.end(); ++it) {
    denied = FirstDeniedBelow(*it);
  }
  if (denied.empty()) ::_exit(0);
  ::_exit(WriteAll(out, AsBytes(denied.native()), "a pipe").ok() ? 1 : 2);
}

}  // namespace

Status CheckReach(uid_t uid, const std::vector<fs::path>& read, const fs::path& pass) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return ErrnoStatus("make", "a pipe", errno);
  const Fd in(fds[0]);
  Fd out(fds[1]);
  const pid_t child = ::fork();
  if (child < 0) return ErrnoStatus("fork", "a check of separate_uids", errno);
  if (child == 0) Check(uid, read, pass, out.get());
  out.reset();
  std::string denied;
  char part[512];
  for (ssize_t n = 1; n != 0 && denied.size() <= kMaxPath;) {
    n = ::read(in.get(), part, sizeof(part));
    if (n < 0 && errno != EINTR) break;
    denied.append(part, static_cast<size_t>(std::max<ssize_t>(n, 0)));
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return OkStatus();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 1) {
    return PermissionDenied(
        "separate_uids: the trainer's uid {} may not use {}; let it read base, records and heldout "
        "and pass through the folders above them and above the site's",
        uid, denied);
  }
  return Unavailable("separate_uids: what uid {} may read could not be found out (status {})", uid,
                     status);
}

}  // namespace tidegate::onshore
