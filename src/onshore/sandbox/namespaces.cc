#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>

#include "onshore/sandbox/steps.h"

namespace tidegate::onshore {
namespace {

// Identity map of one uid and one gid: the process stays who it is, and nobody else exists inside.
Status MapOwnIds(const KernelCalls& kernel, uid_t uid, gid_t gid) {
  const std::string uid_map = fmt::format("{} {} 1\n", uid, uid);
  const std::string gid_map = fmt::format("{} {} 1\n", gid, gid);
  const std::pair<const char*, const char*> writes[] = {{"/proc/self/setgroups", "deny"},
                                                        {"/proc/self/uid_map", uid_map.c_str()},
                                                        {"/proc/self/gid_map", gid_map.c_str()}};
  for (const auto& [path, text] : writes) {
    if (kernel.write_id_map(path, text) != 0) {
      // The namespace exists and has no user: there is no way back from here.
      return ErrnoStatus("map the user of a new namespace in", path, errno)
          .WithContext(
              "a user namespace was made but could not be used; on Ubuntu give the program an "
              "AppArmor profile with 'userns,' or set "
              "kernel.apparmor_restrict_unprivileged_userns=0");
    }
  }
  return OkStatus();
}

}  // namespace

Status RaiseNetns(const KernelCalls& kernel, WallReport& report) {
  // Decided by trying: root of a container may lack CAP_SYS_ADMIN, a user may have it.
  if (kernel.unshare(CLONE_NEWNET | CLONE_NEWIPC) == 0) {
    MarkUp(report, Wall::kNetns);
    return OkStatus();
  }
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (kernel.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) != 0) {
    MarkMissing(report, Wall::kNetns, "unshare", errno);
    return OkStatus();
  }
  TG_RETURN_IF_ERROR(MapOwnIds(kernel, uid, gid));
  MarkUp(report, Wall::kNetns);
  return OkStatus();
}

Status RaiseChroot(const WallSpec& spec, const KernelCalls& kernel, WallReport& report) {
  if (spec.chroot.empty()) {
    if (spec.role == Role::kTrainer) report.row(Wall::kChroot).state = WallState::kNotForRole;
    return OkStatus();
  }
  if (kernel.chroot(spec.chroot.c_str()) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      return ErrnoStatus("enter the root directory", spec.chroot.string(), errno);
    }
    MarkMissing(report, Wall::kChroot, "chroot", errno);
    return OkStatus();
  }
  if (::chdir("/") != 0) return ErrnoStatus("enter", "the new root directory", errno);
  MarkUp(report, Wall::kChroot);
  return OkStatus();
}

}  // namespace tidegate::onshore
