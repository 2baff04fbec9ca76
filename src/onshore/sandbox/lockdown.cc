// Step 16: a second filter, default ALLOW, under which an attack ends the process. Strictest wins,
// so what the first filter refuses with EPERM becomes death, and nothing becomes allowed.
#include <sched.h>
#include <seccomp.h>

#include "onshore/sandbox/seccomp_rules.h"
#include "onshore/sandbox/syscall_lists.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::onshore {

Status LockDown(Role role) {
  constexpr uint32_t kKill = SCMP_ACT_KILL_PROCESS;
  TG_ASSIGN_OR_RETURN(FilterBuilder filter, FilterBuilder::Make(SCMP_ACT_ALLOW, kKill));
  TG_RETURN_IF_ERROR(filter.AddAll(kKill, kAttacks));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  TG_RETURN_IF_ERROR(filter.AddAll(kKill, kProcessAttacks));
  TG_RETURN_IF_ERROR(filter.Add(kKill, "clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0)}));
#endif
  if (role != Role::kLink) {
    TG_RETURN_IF_ERROR(filter.Add(kKill, "socket"));
    TG_RETURN_IF_ERROR(filter.Add(kKill, "connect"));
  }
  TG_RETURN_IF_ERROR(filter.Add(kKill, "seccomp"));
  return filter.Load();
}

}  // namespace tidegate::onshore
