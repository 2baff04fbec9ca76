// Tests only: the system calls behind the walls, to inject an errno, and holes to show that the
// self-test finds them. No program of the product sets WallSpec::faults (a test greps for it).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace tidegate::onshore {

// Each returns what the call returns; errno is set on -1.
struct KernelCalls {
  int (*unshare)(int flags);
  int (*write_id_map)(const char* path, const char* text);
  int (*chroot)(const char* path);
  int (*set_ids)(uid_t uid, gid_t gid);  // setgroups(0), setresgid, setresuid
  long (*landlock_create_ruleset)(const void* attributes, size_t size, uint32_t flags);
  long (*landlock_restrict_self)(int ruleset, uint32_t flags);
  int (*prctl)(int option, unsigned long argument);
};
const KernelCalls& RealKernel();

struct WallFaults {
  KernelCalls kernel = RealKernel();
  int landlock_abi_cap = 0;  // >0: behave as on a kernel with at most this ABI
  // Not 0: as if the kernel refused the allowlist, link's listener, close_range() or
  // SO_PASSRIGHTS with this errno.
  int seccomp_error = 0, listener_error = 0, close_range_error = 0, passrights_error = 0;
  bool skip_thread_count = false;
  bool allow_bad_arch = false;
  bool allow_sendmsg = false;
  bool without_tsync = false;  // the strict filter on the calling thread alone
};

}  // namespace tidegate::onshore
