#include "onshore/sandbox/walls.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "onshore/sandbox/address_pin.h"
#include "onshore/sandbox/fd_audit.h"
#include "onshore/sandbox/steps.h"

namespace tidegate::onshore {
namespace {

int WriteIdMap(const char* path, const char* text) {
  const Fd fd(::open(path, O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return -1;
  const auto size = static_cast<ssize_t>(std::strlen(text));
  return ::write(fd.get(), text, static_cast<size_t>(size)) == size ? 0 : -1;
}

int SetIds(uid_t uid, gid_t gid) {
  if (::setgroups(0, nullptr) != 0) return -1;
  if (::setresgid(gid, gid, gid) != 0) return -1;
  return ::setresuid(uid, uid, uid);
}

Status CheckSpec(const WallSpec& spec) {
  if (spec.uid.has_value() != spec.gid.has_value()) {
    return InvalidArgument("walls: uid and gid go together; give both or neither");
  }
  if (spec.uid && (*spec.uid == 0 || *spec.gid == 0)) {
    return InvalidArgument("walls: a separate uid or gid of 0 is root; name a service user");
  }
  if (spec.expected_parent <= 0) {
    return InvalidArgument("walls: the supervisor's process id is missing; start through Spawn");
  }
  if (spec.role != Role::kTrainer &&
      (!spec.devices.empty() || !spec.rewritable.empty() || spec.start_up)) {
    return InvalidArgument("walls: devices and a start-up are for the trainer, not for {}",
                           RoleName(spec.role));
  }
  const bool kept =
      std::any_of(spec.kept_fds.begin(), spec.kept_fds.end(), [&spec](const KeptFd& entry) {
        return entry.fd == spec.pin_channel && entry.kind == FdKind::kChannel;
      });
  if ((spec.role == Role::kLink) != kept) {
    return InvalidArgument("walls: link, and only link, names a kept channel as pin_channel");
  }
  return OkStatus();
}

// Namespaces and Landlock bind the calling thread; another one would stay free.
Status CheckOneThread() {
  struct stat info {};
  if (::stat("/proc/self/task", &info) != 0) {
    return ErrnoStatus("count the threads in", "/proc/self/task", errno);
  }
  if (info.st_nlink != 3) {
    return FailedPrecondition(
        "the process has {} threads, walls are raised with one: start threads after RaiseWalls",
        info.st_nlink - 2);
  }
  return OkStatus();
}

Status RaiseSeccomp(const WallSpec& spec, const WallFaults& faults, WallReport& report) {
  if (spec.start_up) {
    TG_RETURN_IF_ERROR(LoadStartUpFilter());
    TG_RETURN_IF_ERROR(spec.start_up());
  }
  if (spec.role == Role::kLink) {
    if (faults.listener_error != 0) {
      return ErrnoStatus("install", "the filter of the pinned address", faults.listener_error);
    }
    TG_RETURN_IF_ERROR(PinAddress(spec.pin_channel));
    MarkUp(report, Wall::kPinnedAddress);
  } else {
    report.row(Wall::kPinnedAddress).state = WallState::kNotForRole;
  }
  if (faults.seccomp_error != 0) {
    return ErrnoStatus("load", "the allowlist of system calls", faults.seccomp_error);
  }
  TG_RETURN_IF_ERROR(LoadAllowlist(spec, faults));
  MarkUp(report, Wall::kSeccomp);
  return OkStatus();
}

}  // namespace

const KernelCalls& RealKernel() {
  static const KernelCalls kCalls = {
      .unshare = [](int flags) { return ::unshare(flags); },
      .write_id_map = WriteIdMap,
      .chroot = [](const char* path) { return ::chroot(path); },
      .set_ids = SetIds,
      .landlock_create_ruleset =
          [](const void* attributes, size_t size, uint32_t flags) {
            return ::syscall(SYS_landlock_create_ruleset, attributes, size, flags);
          },
      .landlock_restrict_self =
          [](int ruleset, uint32_t flags) {
            return ::syscall(SYS_landlock_restrict_self, ruleset, flags);
          },
      .prctl = [](int option,
                  unsigned long argument) { return ::prctl(option, argument, 0UL, 0UL, 0UL); }};
  return kCalls;
}

void MarkUp(WallReport& report, Wall wall) { report.row(wall) = WallRow{.state = WallState::kUp}; }

void MarkMissing(WallReport& report, Wall wall, std::string_view step, int error) {
  WallRow& row = report.row(wall);
  row = WallRow{.state = WallState::kMissing, .error = error};
  step.copy(row.step, sizeof(row.step) - 1);
}

Result<WallReport> RaiseWalls(const WallSpec& spec) {
  static const WallFaults kNone;
  const WallFaults& faults = spec.faults ? *spec.faults : kNone;
  const KernelCalls& kernel = faults.kernel;
  WallReport report;
  report.role = spec.role;
  utsname system{};
  if (::uname(&system) == 0) {
    std::string_view(system.release).substr(0, sizeof(report.kernel) - 1).copy(report.kernel, 63);
  }
  TG_RETURN_IF_ERROR(CheckSpec(spec));
  if (!faults.skip_thread_count) TG_RETURN_IF_ERROR(CheckOneThread());

  TG_RETURN_IF_ERROR(AuditFds(spec.kept_fds, faults, &report.passrights_error));
  TG_ASSIGN_OR_RETURN(std::vector<PathGrant> grants, OpenGrants(spec));
  TG_RETURN_IF_ERROR(RaiseNetns(kernel, report));
  TG_RETURN_IF_ERROR(RaiseChroot(spec, kernel, report));
  TG_RETURN_IF_ERROR(DropPrivileges(spec, kernel, report));
  TG_RETURN_IF_ERROR(DieWithParent(spec, kernel));
  TG_RETURN_IF_ERROR(LimitSelf(spec, kernel, report));
  TG_RETURN_IF_ERROR(RaiseLandlock(std::move(grants), faults, report));
  TG_RETURN_IF_ERROR(RaiseSeccomp(spec, faults, report));
  return report;
}

}  // namespace tidegate::onshore
