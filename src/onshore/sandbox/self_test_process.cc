// Other processes, other privileges, other programs. Last in the table: some change the process
// where they get through.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "onshore/sandbox/self_test_tries.h"

namespace tidegate::onshore {
namespace {

int CloseIfOpen(long fd) {
  if (fd < 0) return errno;
  ::close(static_cast<int>(fd));
  return 0;
}

int TryPtrace(const TryContext& c) {
  return Outcome(::syscall(SYS_ptrace, PTRACE_PEEKDATA, c.sibling, nullptr, nullptr));
}
int TryTraceMe(const TryContext&) {
  return Outcome(::syscall(SYS_ptrace, PTRACE_TRACEME, 0, nullptr, nullptr));
}
int VmTransfer(long number, pid_t pid) {
  char byte = 0;
  iovec own{&byte, 1};
  iovec other{nullptr, 1};
  return Outcome(::syscall(number, pid, &own, 1, &other, 1, 0));
}
int TryVmRead(const TryContext& c) { return VmTransfer(SYS_process_vm_readv, c.sibling); }
int TryVmWrite(const TryContext& c) { return VmTransfer(SYS_process_vm_writev, c.sibling); }
int TryPidfdOpen(const TryContext& c) {
  return CloseIfOpen(::syscall(SYS_pidfd_open, c.sibling, 0));
}
int TryPidfdGetfd(const TryContext&) { return Outcome(::syscall(SYS_pidfd_getfd, -1, 0, 0)); }
int TryPidfdSignal(const TryContext&) {
  return Outcome(::syscall(SYS_pidfd_send_signal, -1, 0, nullptr, 0));
}
int TryKcmp(const TryContext& c) {
  return Outcome(::syscall(SYS_kcmp, ::getpid(), c.sibling, KCMP_VM, 0, 0));
}
int TryRobustList(const TryContext& c) {
  void* head = nullptr;
  size_t size = 0;
  return Outcome(::syscall(SYS_get_robust_list, c.sibling, &head, &size));
}
int TryMigratePages(const TryContext& c) {
  const unsigned long nodes = 0;
  return Outcome(::syscall(SYS_migrate_pages, c.sibling, 1, &nodes, &nodes));
}
int TryMovePages(const TryContext& c) {
  return Outcome(::syscall(SYS_move_pages, c.sibling, 0, nullptr, nullptr, nullptr, 0));
}
int TryMadvise(const TryContext&) {
  return Outcome(::syscall(SYS_process_madvise, -1, nullptr, 0, 0, 0));
}
int TryKill(const TryContext& c) { return Outcome(::syscall(SYS_kill, c.sibling, 0)); }
int TryTkill(const TryContext& c) { return Outcome(::syscall(SYS_tkill, c.sibling, 0)); }
int TryTgkill(const TryContext& c) {
  return Outcome(::syscall(SYS_tgkill, c.sibling, c.sibling, 0));
}
int TrySigqueue(const TryContext& c) {
  siginfo_t info{};
  info.si_code = SI_QUEUE;
  return Outcome(::syscall(SYS_rt_sigqueueinfo, c.sibling, 0, &info));
}
int TryPrlimit(const TryContext& c) {
  rlimit limit{};
  return Outcome(::syscall(SYS_prlimit64, c.sibling, RLIMIT_NOFILE, nullptr, &limit));
}
int TrySetOwnLimit(const TryContext&) {
  rlimit limit{};
  if (::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit) != 0) return errno;
  return Outcome(::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, nullptr));
}
int TryGetAffinity(const TryContext& c) {
  cpu_set_t set;
  return Outcome(::syscall(SYS_sched_getaffinity, c.sibling, sizeof(set), &set));
}
int TrySetAffinity(const TryContext& c) {
  // An empty mask: the permission is looked at first, then EINVAL.
  return Outcome(::syscall(SYS_sched_setaffinity, c.sibling, 0, nullptr));
}
int TrySetScheduler(const TryContext& c) {
  const sched_param parameter{-1};  // no such priority: EINVAL, and nothing changed
  return Outcome(::syscall(SYS_sched_setscheduler, c.sibling, SCHED_FIFO, &parameter));
}
int TryGetPriority(const TryContext& c) {
  return Outcome(::syscall(SYS_getpriority, PRIO_PROCESS, c.sibling));
}
int TrySetPriority(const TryContext&) { return Outcome(::syscall(SYS_setpriority, 99, 0, 0)); }
int TryIoprio(const TryContext& c) { return Outcome(::syscall(SYS_ioprio_get, 1, c.sibling)); }

int TryExecve(const TryContext&) {
  // An argument list that cannot be read: EFAULT where the program would have been started.
  return Outcome(::syscall(SYS_execve, "/proc/self/exe", 1UL, nullptr));
}
int TryExecveat(const TryContext&) {
  return Outcome(::syscall(SYS_execveat, AT_FDCWD, "/proc/self/exe", 1UL, nullptr, 0));
}
int TryMemfdExec(const TryContext&) {
  const long fd = ::syscall(SYS_memfd_create, "tidegate-try", 1 /* MFD_CLOEXEC */);
  if (fd < 0) return errno;
  const int outcome =
      Outcome(::syscall(SYS_execveat, static_cast<int>(fd), "", 1UL, nullptr, AT_EMPTY_PATH));
  ::close(static_cast<int>(fd));
  return outcome;
}

int ChildOutcome(long pid) {
  if (pid < 0) return errno;
  if (pid == 0) ::syscall(SYS_exit_group, 0);
  ::syscall(SYS_wait4, pid, nullptr, __WALL, nullptr);
  return 0;
}
int TryFork(const TryContext&) { return ChildOutcome(::syscall(SYS_fork)); }
int TryCloneProcess(const TryContext&) {
  return ChildOutcome(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, 0));
}
int TryCloneUserns(const TryContext&) {
  return ChildOutcome(::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, 0));
}
int TryClone3(const TryContext&) {
  uint64_t arguments[8] = {};
  arguments[4] = SIGCHLD;
  return ChildOutcome(::syscall(SYS_clone3, arguments, sizeof(arguments)));
}
int TryUnshareUser(const TryContext&) { return Outcome(::syscall(SYS_unshare, CLONE_NEWUSER)); }
int TryUnshareNet(const TryContext&) { return Outcome(::syscall(SYS_unshare, CLONE_NEWNET)); }
int TrySetns(const TryContext&) { return Outcome(::syscall(SYS_setns, -1, 0)); }
int TryMount(const TryContext&) {
  return Outcome(::syscall(SYS_mount, "none", "/", "tidegate-no-such-fs", 0, nullptr));
}
int TryUmount(const TryContext&) { return Outcome(::syscall(SYS_umount2, nullptr, 0)); }
int TryFsopen(const TryContext&) {
  return CloseIfOpen(::syscall(SYS_fsopen, "tidegate-no-such-fs", 0));
}
int TryOpenTree(const TryContext&) { return CloseIfOpen(::syscall(SYS_open_tree, -1, "x", 0)); }
int TryPivotRoot(const TryContext&) { return Outcome(::syscall(SYS_pivot_root, nullptr, nullptr)); }
int TryChroot(const TryContext&) { return Outcome(::syscall(SYS_chroot, nullptr)); }
int TryBecomeRoot(const TryContext&) { return Outcome(::syscall(SYS_setresuid, 0, 0, 0)); }
int TryCapset(const TryContext&) { return Outcome(::syscall(SYS_capset, nullptr, nullptr)); }
int TryLandlock(const TryContext&) {
  return Outcome(::syscall(SYS_landlock_create_ruleset, nullptr, 0, 1U));
}
int TryDumpable(const TryContext&) {
  const int outcome = Outcome(::syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0));
  if (outcome == 0) ::syscall(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
  return outcome;
}

}  // namespace

void AppendProcessTries(std::vector<Try>& tries) {
  const std::vector<Try> table = {
      {"ptrace_sibling", kAll, TryPtrace, {ESRCH}, 0},
      {"process_vm_readv_sibling", kAll, TryVmRead, {EFAULT}, 0},
      {"process_vm_writev_sibling", kAll, TryVmWrite, {EFAULT}, 0},
      {"pidfd_open_sibling", kAll, TryPidfdOpen, {}, 0},
      {"pidfd_getfd", kAll, TryPidfdGetfd, {EBADF}, 0},
      {"pidfd_send_signal", kAll, TryPidfdSignal, {EBADF}, 0},
      {"kcmp_sibling", kAll, TryKcmp, {}, 0},
      {"get_robust_list_sibling", kAll, TryRobustList, {}, 0},
      {"migrate_pages_sibling", kAll, TryMigratePages, {EINVAL}, 0},
      {"move_pages_sibling", kAll, TryMovePages, {}, 0},
      {"process_madvise", kAll, TryMadvise, {EBADF, EINVAL}, 0},
      {"kill_sibling", kAll, TryKill, {}, 0},
      {"tkill_sibling", kAll, TryTkill, {}, 0},
      {"tgkill_sibling", kAll, TryTgkill, {}, 0},
      {"rt_sigqueueinfo_sibling", kAll, TrySigqueue, {}, 0},
      {"prlimit_sibling", kAll, TryPrlimit, {}, 0},
      {"prlimit_raise_own", kAll, TrySetOwnLimit, {}, 0},
      {"sched_getaffinity_sibling", kAll, TryGetAffinity, {}, 0},
      {"sched_setaffinity_sibling", kAll, TrySetAffinity, {EINVAL}, 0},
      {"sched_setscheduler_sibling", kAll, TrySetScheduler, {EINVAL}, 0},
      {"getpriority_sibling", kAll, TryGetPriority, {}, 0},
      {"setpriority", kAll, TrySetPriority, {EINVAL}, 0},
      {"ioprio_get_sibling", kAll, TryIoprio, {}, 0},
      {"execve", kAll, TryExecve, {EFAULT}, 0},
      {"execveat", kAll, TryExecveat, {EFAULT}, 0},
      {"memfd_exec", kAll, TryMemfdExec, {EFAULT, ENOEXEC}, 0},
      {"fork", kAll, TryFork, {}, 0},
      {"clone_process", kAll, TryCloneProcess, {}, 0},
      {"clone_new_userns", kAll, TryCloneUserns, {}, 0},
      {"clone3", kAll, TryClone3, {}, 0},
      {"setns", kAll, TrySetns, {EBADF}, 0},
      {"mount", kAll, TryMount, {ENODEV}, 0},
      {"umount", kAll, TryUmount, {EFAULT}, 0},
      {"fsopen", kAll, TryFsopen, {ENODEV}, 0},
      {"open_tree", kAll, TryOpenTree, {EBADF}, 0},
      {"pivot_root", kAll, TryPivotRoot, {EFAULT}, 0},
      {"chroot", kAll, TryChroot, {EFAULT}, 0},
      {"capset", kAll, TryCapset, {EFAULT}, 0},
      {"landlock_create_ruleset", kAll, TryLandlock, {}, 0},
      {"become_root", kAll, TryBecomeRoot, {}, 0},
      {"unshare_net", kAll, TryUnshareNet, {}, 0},
      {"unshare_user", kAll, TryUnshareUser, {}, 0},
      {"ptrace_traceme", kAll, TryTraceMe, {}, 0},
      {"prctl_dumpable", kAll, TryDumpable, {}, 0},
  };
  tries.insert(tries.end(), table.begin(), table.end());
}

}  // namespace tidegate::onshore
