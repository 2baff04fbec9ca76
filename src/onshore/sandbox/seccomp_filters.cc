// Step 14: what each role may ask of the kernel. Allowlist, default ENOSYS (a newer libc probes and
// falls back), EPERM for the names a reader would look for. The measured reasons for each argument
// rule stand beside it.
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "onshore/sandbox/seccomp_rules.h"
#include "onshore/sandbox/steps.h"
#include "onshore/sandbox/syscall_lists.h"

namespace tidegate::onshore {

Result<FilterBuilder> FilterBuilder::Make(uint32_t default_action, uint32_t bad_arch,
                                          bool every_thread) {
  FilterBuilder builder;
  builder.context_.reset(seccomp_init(default_action));
  if (!builder.context_) return Internal("cannot start a seccomp filter");
  scmp_filter_ctx context = builder.context_.get();
  // no_new_privs is set by LimitSelf, and after the first filter prctl is refused.
  int failed = seccomp_attr_set(context, SCMP_FLTATR_CTL_NNP, 0);
  if (failed == 0) failed = seccomp_attr_set(context, SCMP_FLTATR_CTL_TSYNC, every_thread ? 1 : 0);
  if (failed == 0) failed = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, bad_arch);
  if (failed != 0) return Unexpected(ErrnoStatus("set up", "a seccomp filter", -failed));
  return builder;
}

Status FilterBuilder::Add(uint32_t action, const char* name,
                          std::initializer_list<scmp_arg_cmp> arguments) {
  const int number = seccomp_syscall_resolve_name(name);
  if (number < 0) {
    if (action != SCMP_ACT_ALLOW) return OkStatus();
    return Internal("libseccomp does not know the system call {}", name);
  }
  const int failed =
      seccomp_rule_add_array(context_.get(), action, number,
                             static_cast<unsigned>(arguments.size()), std::data(arguments));
  if (failed != 0) return ErrnoStatus("add a seccomp rule for", name, -failed);
  return OkStatus();
}

Status FilterBuilder::Load() {
  const int failed = seccomp_load(context_.get());
  if (failed != 0) return ErrnoStatus("load", "a seccomp filter", -failed);
  return OkStatus();
}

namespace {

constexpr uint32_t kAllow = SCMP_ACT_ALLOW;
const uint32_t kRefuse = SCMP_ACT_ERRNO(EPERM);
constexpr uint64_t kNewNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
constexpr uint64_t kMessageFlags = MSG_NOSIGNAL | MSG_DONTWAIT;
// recv with MSG_TRUNC tells the true length of a cut message.
constexpr uint64_t kReceiveFlags = kMessageFlags | MSG_TRUNC | MSG_PEEK;

Status AddThreadRules(FilterBuilder& filter) {
  // Threads, not processes; clone3 takes its flags in memory, where no filter can look: ENOSYS by
  // default, upon which libc falls back to clone.
  TG_RETURN_IF_ERROR(filter.Add(
      kAllow, "clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | kNewNamespaces, CLONE_THREAD)}));
  TG_RETURN_IF_ERROR(filter.Add(kRefuse, "clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0)}));
  TG_RETURN_IF_ERROR(filter.Add(kAllow, "prctl", {SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME)}));
  TG_RETURN_IF_ERROR(filter.Add(kRefuse, "prctl", {SCMP_A0(SCMP_CMP_NE, PR_SET_NAME)}));
  // A sibling with the same uid could be signalled, limited and moved: own process only.
  const auto own = static_cast<scmp_datum_t>(::getpid());
  TG_RETURN_IF_ERROR(filter.Add(kAllow, "tgkill", {SCMP_A0(SCMP_CMP_EQ, own)}));
  TG_RETURN_IF_ERROR(filter.Add(kRefuse, "tgkill", {SCMP_A0(SCMP_CMP_NE, own)}));
  // Another thread's: ENOSYS by default, which pthread_getattr_np takes for "no such thing"; EPERM
  // makes it fail.
  TG_RETURN_IF_ERROR(filter.Add(kAllow, "sched_getaffinity", {SCMP_A0(SCMP_CMP_EQ, 0)}));
  TG_RETURN_IF_ERROR(
      filter.Add(kAllow, "prlimit64", {SCMP_A0(SCMP_CMP_EQ, 0), SCMP_A2(SCMP_CMP_EQ, 0)}));
  TG_RETURN_IF_ERROR(filter.Add(kRefuse, "prlimit64", {SCMP_A0(SCMP_CMP_NE, 0)}));
  return filter.Add(kRefuse, "prlimit64", {SCMP_A0(SCMP_CMP_EQ, 0), SCMP_A2(SCMP_CMP_NE, 0)});
}

Status AddMemoryRules(FilterBuilder& filter, Role role) {
  for (const char* name : {"mmap", "mprotect"}) {
    if (role == Role::kTrainer) {
      TG_RETURN_IF_ERROR(filter.Add(kAllow, name));
      continue;
    }
    TG_RETURN_IF_ERROR(filter.Add(kAllow, name, {SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)}));
    TG_RETURN_IF_ERROR(
        filter.Add(kRefuse, name, {SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, PROT_EXEC)}));
  }
  return OkStatus();
}

// Not F_SETOWN, F_SETSIG, F_NOTIFY or leases, which send signals to other processes.
Status AddDescriptorRules(FilterBuilder& filter, Role role) {
  for (int command : {F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_SETLK, F_SETLKW,
                      F_DUPFD_CLOEXEC, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW}) {
    TG_RETURN_IF_ERROR(
        filter.Add(kAllow, "fcntl", {SCMP_A1(SCMP_CMP_EQ, static_cast<scmp_datum_t>(command))}));
  }
  if (role != Role::kLink) {
    return filter.Add(kAllow, "fcntl", {SCMP_A1(SCMP_CMP_EQ, F_SETFL)});
  }
  // The supervisor connects link's sockets and must not be made to wait for it.
  return filter.Add(
      kAllow, "fcntl",
      {SCMP_A1(SCMP_CMP_EQ, F_SETFL), SCMP_A2(SCMP_CMP_MASKED_EQ, O_NONBLOCK, O_NONBLOCK)});
}

// Messages on what is connected already: no address, no descriptors, no FASTOPEN.
Status AddMessageRules(FilterBuilder& filter) {
  TG_RETURN_IF_ERROR(filter.Add(
      kAllow, "sendto", {SCMP_A3(SCMP_CMP_MASKED_EQ, ~kMessageFlags, 0), SCMP_A4(SCMP_CMP_EQ, 0)}));
  TG_RETURN_IF_ERROR(filter.Add(kRefuse, "sendto", {SCMP_A4(SCMP_CMP_NE, 0)}));
  TG_RETURN_IF_ERROR(
      filter.Add(kAllow, "recvfrom",
                 {SCMP_A3(SCMP_CMP_MASKED_EQ, ~kReceiveFlags, 0), SCMP_A4(SCMP_CMP_EQ, 0)}));
  return filter.Add(kRefuse, "recvfrom", {SCMP_A4(SCMP_CMP_NE, 0)});
}

// The supervisor decides on each socket and connect; these rules keep what it would refuse from
// waking it. Of ERRNO and USER_NOTIF the kernel takes ERRNO.
Status AddLinkSocketRules(FilterBuilder& filter) {
  constexpr uint64_t kTypeBits = ~static_cast<uint64_t>(SOCK_NONBLOCK | SOCK_CLOEXEC);
  for (scmp_datum_t family : {AF_INET, AF_INET6}) {
    for (scmp_datum_t protocol : {0, static_cast<int>(IPPROTO_TCP)}) {
      TG_RETURN_IF_ERROR(filter.Add(
          kAllow, "socket",
          {SCMP_A0(SCMP_CMP_EQ, family), SCMP_A1(SCMP_CMP_MASKED_EQ, kTypeBits, SOCK_STREAM),
           SCMP_A2(SCMP_CMP_EQ, protocol)}));
    }
  }
  for (scmp_datum_t level : {SOL_SOCKET, static_cast<int>(IPPROTO_TCP)}) {
    TG_RETURN_IF_ERROR(filter.Add(kAllow, "setsockopt", {SCMP_A1(SCMP_CMP_EQ, level)}));
  }
  TG_RETURN_IF_ERROR(
      filter.Add(kAllow, "setsockopt",
                 {SCMP_A1(SCMP_CMP_EQ, IPPROTO_IPV6), SCMP_A2(SCMP_CMP_EQ, IPV6_V6ONLY)}));
  // libzmq sets the normal policy on its own threads and aborts where that is refused. Any other
  // policy on a sibling would be a channel.
  TG_RETURN_IF_ERROR(filter.Add(kAllow, "sched_setscheduler", {SCMP_A1(SCMP_CMP_EQ, SCHED_OTHER)}));
  return filter.Add(kRefuse, "sched_setscheduler", {SCMP_A1(SCMP_CMP_NE, SCHED_OTHER)});
}

// AMX tiles are granted by arch_prctl at the first matrix product that wants them.
Status AddTrainerRules(FilterBuilder& filter) {
  constexpr scmp_datum_t kGetXcompSupport = 0x1021, kGetXcompPermission = 0x1022,
                         kRequestXcompPermission = 0x1023;
  for (scmp_datum_t code : {kGetXcompSupport, kGetXcompPermission, kRequestXcompPermission}) {
    TG_RETURN_IF_ERROR(filter.Add(kAllow, "arch_prctl", {SCMP_A0(SCMP_CMP_EQ, code)}));
  }
  return filter.Add(kRefuse, "sched_setscheduler");
}

template <typename Names>
bool Contains(const Names& names, std::string_view name) {
  return std::any_of(names.begin(), names.end(), [name](const char* n) { return name == n; });
}

bool RoleAllows(const WallSpec& spec, std::string_view name) {
  switch (spec.role) {
    case Role::kTrainer:
      return Contains(kTrainerCalls, name) || (spec.start_up && Contains(kGpuCalls, name));
    case Role::kGate:
      return Contains(kGateCalls, name);
    case Role::kLink:
      return Contains(kLinkCalls, name);
    case Role::kCarrier:
      return Contains(kCarrierCalls, name);
  }
  return false;
}

Status AddRoleRules(FilterBuilder& filter, const WallSpec& spec) {
  // isatty() of a log or of a sanitizer's report: ENOTTY, never an end.
  const bool gpu = static_cast<bool>(spec.start_up);
  if (!gpu) TG_RETURN_IF_ERROR(filter.Add(SCMP_ACT_ERRNO(ENOTTY), "ioctl"));
  if (spec.role != Role::kLink) {
    TG_RETURN_IF_ERROR(filter.AddAll(kAllow, kFileCalls));
    TG_RETURN_IF_ERROR(filter.Add(kRefuse, "socket"));
    TG_RETURN_IF_ERROR(filter.Add(kRefuse, "connect"));
  } else {
    TG_RETURN_IF_ERROR(filter.AddAll(kRefuse, kFileCalls));
  }
  switch (spec.role) {
    case Role::kTrainer:
      TG_RETURN_IF_ERROR(filter.AddAll(kAllow, kTrainerCalls));
      if (gpu) TG_RETURN_IF_ERROR(filter.AddAll(kAllow, kGpuCalls));
      return AddTrainerRules(filter);
    case Role::kGate:
      TG_RETURN_IF_ERROR(filter.Add(kRefuse, "sched_setscheduler"));
      return filter.AddAll(kAllow, kGateCalls);
    case Role::kLink:
      TG_RETURN_IF_ERROR(filter.AddAll(kAllow, kLinkCalls));
      return AddLinkSocketRules(filter);
    case Role::kCarrier:
      TG_RETURN_IF_ERROR(filter.Add(kRefuse, "sched_setscheduler"));
      return filter.AddAll(kAllow, kCarrierCalls);
  }
  return OkStatus();
}

}  // namespace

Status LoadAllowlist(const WallSpec& spec, const WallFaults& faults) {
  // ENOSYS and not death, so that the self-test can try; LockDown makes it death.
  const uint32_t bad_arch = faults.allow_bad_arch ? kAllow : SCMP_ACT_ERRNO(ENOSYS);
  TG_ASSIGN_OR_RETURN(FilterBuilder filter,
                      FilterBuilder::Make(SCMP_ACT_ERRNO(ENOSYS), bad_arch, !faults.without_tsync));
  TG_RETURN_IF_ERROR(filter.AddAll(kAllow, kEverybody));
  TG_RETURN_IF_ERROR(AddThreadRules(filter));
  TG_RETURN_IF_ERROR(AddMemoryRules(filter, spec.role));
  TG_RETURN_IF_ERROR(AddDescriptorRules(filter, spec.role));
  TG_RETURN_IF_ERROR(AddMessageRules(filter));
  TG_RETURN_IF_ERROR(AddRoleRules(filter, spec));
  for (const char* name : kAttacks) {
    const bool hole = faults.allow_sendmsg && std::string_view(name) == "sendmsg";
    TG_RETURN_IF_ERROR(filter.Add(hole ? kAllow : kRefuse, name));
  }
  TG_RETURN_IF_ERROR(filter.AddAll(kRefuse, kProcessAttacks));
  for (const char* name : kQuietRefusals) {
    if (!RoleAllows(spec, name)) TG_RETURN_IF_ERROR(filter.Add(kRefuse, name));
  }
  return filter.Load();
}

// Stage A of a GPU's start: the driver's calls are not ours to enumerate, so a denylist; it listens
// on an abstract AF_UNIX socket and makes memfds. No record is open yet.
Status LoadStartUpFilter() {
  TG_ASSIGN_OR_RETURN(FilterBuilder filter, FilterBuilder::Make(kAllow, SCMP_ACT_ERRNO(ENOSYS)));
  for (const char* name : kAttacks) {
    const std::string_view view(name);
    if (view == "memfd_create" || view == "bind" || view == "listen") continue;
    TG_RETURN_IF_ERROR(filter.Add(kRefuse, name));
  }
  TG_RETURN_IF_ERROR(filter.AddAll(kRefuse, kProcessAttacks));
  // Threads alone: a process that is started now would not be under the strict filter.
  TG_RETURN_IF_ERROR(filter.Add(kRefuse, "clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0)}));
  TG_RETURN_IF_ERROR(filter.Add(SCMP_ACT_ERRNO(ENOSYS), "clone3"));
  TG_RETURN_IF_ERROR(filter.Add(kRefuse, "connect"));
  TG_RETURN_IF_ERROR(filter.Add(kRefuse, "socket", {SCMP_A0(SCMP_CMP_NE, AF_UNIX)}));
  TG_RETURN_IF_ERROR(
      filter.Add(kRefuse, "socket",
                 {SCMP_A0(SCMP_CMP_EQ, AF_UNIX), SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, SOCK_DGRAM)}));
  return filter.Load();
}

}  // namespace tidegate::onshore
