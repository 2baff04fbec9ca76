#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "onshore/sandbox/self_test_tries.h"

namespace tidegate::onshore {
namespace {

long NoPath(long number) { return ::syscall(number, nullptr, 0, 0, 0, 0); }
long NoPathAt(long number) { return ::syscall(number, AT_FDCWD, nullptr, 0, 0, 0); }

int Create(const std::string& path) {
  const long fd =
      ::syscall(SYS_openat, AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return errno;
  ::close(static_cast<int>(fd));
  ::unlink(path.c_str());
  return 0;
}
std::string Scratch(const TryContext& context) {
  return fmt::format("{}/tidegate-try-{}", context.scratch_directory, ::getpid());
}
int TryCreate(const TryContext& context) { return Create(Scratch(context)); }
int TryCreateShm(const TryContext&) {
  return Create(fmt::format("/dev/shm/tidegate-try-{}", ::getpid()));
}
int TryTruncate(const TryContext& context) {
  // Behind the walls the file cannot be made; the call is refused before anyone looks for it.
  const std::string path = Scratch(context);
  const long fd =
      ::syscall(SYS_openat, AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  const int error = Outcome(::syscall(SYS_truncate, path.c_str(), 0));
  if (fd >= 0) {
    ::close(static_cast<int>(fd));
    ::unlink(path.c_str());
  }
  return error;
}

int SiblingFile(const TryContext& context, const char* name) {
  return TryRead(fmt::format("/proc/{}/{}", context.sibling, name));
}
int TrySiblingMem(const TryContext& c) { return SiblingFile(c, "mem"); }
int TrySiblingEnviron(const TryContext& c) { return SiblingFile(c, "environ"); }
int TrySiblingMaps(const TryContext& c) { return SiblingFile(c, "maps"); }
int TrySiblingStatus(const TryContext& c) { return SiblingFile(c, "status"); }
int TrySiblingCmdline(const TryContext& c) { return SiblingFile(c, "cmdline"); }
int TrySiblingFds(const TryContext& c) { return SiblingFile(c, "fd"); }
int TrySiblingRoot(const TryContext& c) { return SiblingFile(c, "root/etc/passwd"); }

int TryPasswd(const TryContext&) { return TryRead("/etc/passwd"); }
int TryKernelLog(const TryContext&) { return TryRead("/dev/kmsg"); }
int TryPtmx(const TryContext&) { return TryRead("/dev/ptmx"); }
int TryTty(const TryContext&) {
  const long fd = ::syscall(SYS_openat, AT_FDCWD, "/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return errno;
  ::close(static_cast<int>(fd));
  return 0;
}
int TryTun(const TryContext&) { return TryRead("/dev/net/tun"); }
int TryUserfaultDevice(const TryContext&) { return TryRead("/dev/userfaultfd"); }
int TryListProc(const TryContext&) { return TryRead("/proc"); }
int TryStat(const TryContext&) {
  struct stat info {};
  return Outcome(::syscall(SYS_newfstatat, AT_FDCWD, "/etc/passwd", &info, 0));
}

int TryMqOpen(const TryContext&) {
  return Outcome(::syscall(SYS_mq_open, nullptr, O_RDONLY, 0, nullptr));
}
int TryChmod(const TryContext&) { return Outcome(NoPath(SYS_chmod)); }
int TryChown(const TryContext&) { return Outcome(NoPath(SYS_chown)); }
int TryFchmodat(const TryContext&) { return Outcome(NoPathAt(SYS_fchmodat)); }
int TryUtimensat(const TryContext&) {
  return Outcome(::syscall(SYS_utimensat, -1, nullptr, nullptr, 0));
}
int TrySetxattr(const TryContext&) { return Outcome(NoPath(SYS_setxattr)); }
int TrySymlink(const TryContext&) { return Outcome(NoPath(SYS_symlink)); }
int TryLink(const TryContext&) { return Outcome(NoPath(SYS_link)); }
int TryMknod(const TryContext&) {
  return Outcome(::syscall(SYS_mknod, nullptr, S_IFIFO | 0600, 0));
}
int TryReadlink(const TryContext&) {
  char text[8];
  return Outcome(::syscall(SYS_readlink, nullptr, text, sizeof(text)));
}
int TryStatfs(const TryContext&) { return Outcome(NoPath(SYS_statfs)); }
int TryNameToHandle(const TryContext&) {
  return Outcome(::syscall(SYS_name_to_handle_at, AT_FDCWD, "/", nullptr, nullptr, 0));
}
int TryOpenByHandle(const TryContext&) {
  return Outcome(::syscall(SYS_open_by_handle_at, -1, nullptr, O_RDONLY));
}

}  // namespace

int TryRead(const std::string& path) {
  const long fd = ::syscall(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return errno;
  ::close(static_cast<int>(fd));
  return 0;
}

void AppendFileTries(std::vector<Try>& tries) {
  const std::vector<Try> table = {
      {"create_in_scratch", kAll, TryCreate, {}, 0, true, kScratch, true},
      {"create_in_dev_shm", kAll, TryCreateShm, {}, 0, true, "/dev/shm", true},
      {"truncate_path", kAll, TryTruncate, {}, 0},
      // ENOENT: a /proc that hides whom one may not trace (hidepid, systemd's
      // ProtectProc=invisible).
      {"read_sibling_mem", kAll, TrySiblingMem, {}, ENOENT, true, "/proc"},
      {"read_sibling_environ", kAll, TrySiblingEnviron, {}, ENOENT, true, "/proc"},
      {"read_sibling_maps", kAll, TrySiblingMaps, {}, ENOENT, true, "/proc"},
      {"read_sibling_status", kAll, TrySiblingStatus, {}, ENOENT, true, "/proc"},
      {"read_sibling_cmdline", kAll, TrySiblingCmdline, {}, ENOENT, true, "/proc"},
      {"read_sibling_fds", kAll, TrySiblingFds, {}, ENOENT, true, "/proc"},
      {"read_through_sibling_root", kAll, TrySiblingRoot, {}, ENOENT, true, "/proc"},
      {"read_etc_passwd", kAll, TryPasswd, {}, 0, true, "/etc/passwd"},
      {"read_dev_kmsg", kAll, TryKernelLog, {}, 0, true, "/dev/kmsg"},
      {"open_dev_ptmx", kAll, TryPtmx, {}, 0, true, "/dev/ptmx"},
      {"open_dev_tty", kAll, TryTty, {}, 0, true, "/dev/tty"},
      {"open_dev_net_tun", kAll, TryTun, {}, 0, true, "/dev/net/tun"},
      {"open_dev_userfaultfd", kAll, TryUserfaultDevice, {}, 0, true, "/dev/userfaultfd"},
      {"list_proc", kAll, TryListProc, {}, 0, true, "/proc"},
      {"mq_open", kAll, TryMqOpen, {EFAULT}, 0},
      {"chmod", kAll, TryChmod, {EFAULT}, 0},
      {"chown", kAll, TryChown, {EFAULT}, 0},
      {"fchmodat", kAll, TryFchmodat, {EFAULT}, 0},
      {"utimensat", kAll, TryUtimensat, {EBADF, EFAULT}, 0},
      {"setxattr", kAll, TrySetxattr, {EFAULT}, 0},
      {"symlink", kAll, TrySymlink, {EFAULT}, 0},
      {"link", kAll, TryLink, {EFAULT}, 0},
      {"mknod", kAll, TryMknod, {EFAULT}, 0},
      {"readlink", kAll, TryReadlink, {EFAULT}, 0},
      {"statfs", kAll, TryStatfs, {EFAULT}, 0},
      {"name_to_handle_at", kAll, TryNameToHandle, {EFAULT}, 0},
      {"open_by_handle_at", kAll, TryOpenByHandle, {EFAULT, EBADF}, 0},
      // Landlock lets path metadata through: only a process that has a root of its own, or no file
      // call at all, is refused. What is left open for the trainer is named in SECURITY.md.
      {kStatOutside, kG | kL | kC, TryStat, {}, 0, true},
  };
  tries.insert(tries.end(), table.begin(), table.end());
}

}  // namespace tidegate::onshore
