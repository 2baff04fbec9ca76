#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "onshore/sandbox/steps.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65  // Linux 6.3
#define PR_MDWE_REFUSE_EXEC_GAIN (1UL << 0)
#endif

namespace tidegate::onshore {
namespace {

constexpr int kLastCapabilityBit = 63;

Status BecomeUser(const WallSpec& spec, const KernelCalls& kernel, WallReport& report) {
  if (!spec.uid) return OkStatus();
  if (kernel.set_ids(*spec.uid, *spec.gid) != 0) {
    const int error = errno;
    uid_t real = 0, effective = 0, saved = 0;
    if (::getresuid(&real, &effective, &saved) != 0 || real != effective || real != saved) {
      return Internal("the change to uid {} ended half-way: {}", *spec.uid, error);
    }
    MarkMissing(report, Wall::kSeparateUids, "setresuid", error);
    return OkStatus();
  }
  uid_t real = 0, effective = 0, saved = 0;
  if (::getresuid(&real, &effective, &saved) != 0 || real != *spec.uid || effective != *spec.uid ||
      saved != *spec.uid) {
    return Internal("uid is {}/{}/{} after the change to {}", real, effective, saved, *spec.uid);
  }
  MarkUp(report, Wall::kSeparateUids);
  return OkStatus();
}

Status DropCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) != 0) {
    return ErrnoStatus("drop", "the process capabilities", errno);
  }
  // EINVAL: a kernel without ambient capabilities has none to clear.
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL) {
    return ErrnoStatus("clear", "the ambient capabilities", errno);
  }
  return OkStatus();
}

}  // namespace

Status DropPrivileges(const WallSpec& spec, const KernelCalls& kernel, WallReport& report) {
  // Fails without CAP_SETPCAP, that is, where there was nothing to lose.
  for (int bit = 0; bit <= kLastCapabilityBit; ++bit) {
    if (::prctl(PR_CAPBSET_DROP, bit, 0, 0, 0) != 0) break;
  }
  TG_RETURN_IF_ERROR(BecomeUser(spec, kernel, report));
  return DropCapabilities();
}

Status DieWithParent(const WallSpec& spec, const KernelCalls& kernel) {
  // Here and not earlier: a change of uid clears it.
  if (kernel.prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
    return ErrnoStatus("set", "the signal at the supervisor's death", errno);
  }
  if (::getppid() != spec.expected_parent) {
    return FailedPrecondition("the parent is process {}, not the supervisor {}; start it again",
                              ::getppid(), spec.expected_parent);
  }
  return OkStatus();
}

Status LimitSelf(const WallSpec& spec, const KernelCalls& kernel, WallReport& report) {
  if (kernel.prctl(PR_SET_DUMPABLE, 0) != 0) {
    return ErrnoStatus("forbid", "dumps of this process", errno);
  }
  const rlimit none{0, 0};
  if (::setrlimit(RLIMIT_CORE, &none) != 0) return ErrnoStatus("forbid", "core files", errno);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return ErrnoStatus("read", "RLIMIT_NOFILE", errno);
  files.rlim_cur = files.rlim_max = std::min<rlim_t>(files.rlim_max, spec.max_open_files);
  if (::setrlimit(RLIMIT_NOFILE, &files) != 0) return ErrnoStatus("set", "RLIMIT_NOFILE", errno);
  if (spec.role == Role::kTrainer) {
    // Its kernels are compiled at run time into pages that are writable and executable.
    report.row(Wall::kMdwe).state = WallState::kNotForRole;
  } else if (kernel.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN) != 0) {
    MarkMissing(report, Wall::kMdwe, "prctl(PR_SET_MDWE)", errno);
  } else {
    MarkUp(report, Wall::kMdwe);
  }
  if (kernel.prctl(PR_SET_NO_NEW_PRIVS, 1) != 0) {
    return ErrnoStatus("set", "no_new_privs", errno);
  }
  return OkStatus();
}

}  // namespace tidegate::onshore
