// Doors of the kernel that no role has a use for, and the other two system call tables.
#include <fcntl.h>
#include <linux/keyctl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstring>

#include "onshore/sandbox/self_test_tries.h"

namespace tidegate::onshore {
namespace {

int CloseIfOpen(long fd) {
  if (fd < 0) return errno;
  ::close(static_cast<int>(fd));
  return 0;
}

// 32-bit entry: its own numbers and, for pointers, addresses below 4 GiB.
long Int80(long number, long first, long second, long third) {
  long result = 0;
  asm volatile("int $0x80"
               : "=a"(result)
               : "a"(number), "b"(first), "c"(second), "d"(third)
               : "memory", "r8", "r9", "r10", "r11", "cc");
  return static_cast<int32_t>(result);
}
int KernelOutcome(long result) {
  if (result < 0) return static_cast<int>(-result);
  ::close(static_cast<int>(result));
  return 0;
}
int TryInt80Socketcall(const TryContext&) {
  constexpr long kSocketcall = 102, kSysSocket = 1;
  void* low =
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  if (low == MAP_FAILED) return errno;
  const uint32_t arguments[3] = {AF_INET, SOCK_DGRAM, 0};
  std::memcpy(low, arguments, sizeof(arguments));
  const int outcome = KernelOutcome(Int80(kSocketcall, kSysSocket, reinterpret_cast<long>(low), 0));
  ::munmap(low, 4096);
  return outcome;
}
int TryInt80Socket(const TryContext&) {
  constexpr long kSocket32 = 359;
  return KernelOutcome(Int80(kSocket32, AF_INET, SOCK_DGRAM, 0));
}
int TryInt80Getpid(const TryContext&) {
  constexpr long kGetpid32 = 20;
  const long result = Int80(kGetpid32, 0, 0, 0);
  return result < 0 ? static_cast<int>(-result) : 0;
}
int TryX32Socket(const TryContext&) {
  constexpr long kX32Bit = 0x40000000;
  return CloseIfOpen(::syscall(kX32Bit + SYS_socket, AF_INET, SOCK_DGRAM, 0));
}

int TryIoUring(const TryContext&) {
  alignas(8) char parameters[120] = {};  // struct io_uring_params
  return CloseIfOpen(::syscall(SYS_io_uring_setup, 1, parameters));
}
int TryIoUringEnter(const TryContext&) {
  return Outcome(::syscall(SYS_io_uring_enter, -1, 0, 0, 0, nullptr, 0));
}
int TryIoUringRegister(const TryContext&) {
  return Outcome(::syscall(SYS_io_uring_register, -1, 0, nullptr, 0));
}
int TryUserfaultfd(const TryContext&) {
  return CloseIfOpen(::syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* user mode only */));
}
int TryKeyctl(const TryContext&) {
  return Outcome(::syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0));
}
int TryAddKey(const TryContext&) {
  return Outcome(::syscall(SYS_add_key, nullptr, nullptr, nullptr, 0, 0));
}
int TryMemfd(const TryContext&) {
  return CloseIfOpen(::syscall(SYS_memfd_create, "tidegate-try", 1 /* MFD_CLOEXEC */));
}
int TryMemfdSecret(const TryContext&) { return CloseIfOpen(::syscall(SYS_memfd_secret, 0)); }
int TryModifyLdt(const TryContext&) {
  char buffer[16];
  return Outcome(::syscall(SYS_modify_ldt, 0, buffer, sizeof(buffer)));
}
int TryPersonality(const TryContext&) {
  return Outcome(::syscall(SYS_personality, 0xffffffffUL));  // asks, changes nothing
}
int TryInotify(const TryContext&) { return CloseIfOpen(::syscall(SYS_inotify_init1, O_CLOEXEC)); }
int TryFanotify(const TryContext&) {
  return CloseIfOpen(::syscall(SYS_fanotify_init, 1 /* CLOEXEC */, O_RDONLY));
}
int TryShmget(const TryContext&) { return Outcome(::syscall(SYS_shmget, 0, 0, 0600)); }
int TryMsgget(const TryContext&) { return Outcome(::syscall(SYS_msgget, 0x7469, 0)); }
int TrySemget(const TryContext&) { return Outcome(::syscall(SYS_semget, 0x7469, -1, 0)); }
int TryBpf(const TryContext&) { return Outcome(::syscall(SYS_bpf, 0, nullptr, 0)); }
int TryPerf(const TryContext&) {
  return Outcome(::syscall(SYS_perf_event_open, nullptr, 0, -1, -1, 0));
}
int TrySyslog(const TryContext&) { return Outcome(::syscall(SYS_syslog, 10, nullptr, 0)); }
int TrySettimeofday(const TryContext&) {
  return Outcome(::syscall(SYS_settimeofday, nullptr, nullptr));
}
int TryClockSettime(const TryContext&) { return Outcome(::syscall(SYS_clock_settime, 0, nullptr)); }
int TryInitModule(const TryContext&) {
  return Outcome(::syscall(SYS_init_module, nullptr, 0, nullptr));
}
int TryIoperm(const TryContext&) { return Outcome(::syscall(SYS_ioperm, 0, 0, 0)); }
int TrySwapon(const TryContext&) { return Outcome(::syscall(SYS_swapon, nullptr, 0)); }
int TryQuotactl(const TryContext&) {
  return Outcome(::syscall(SYS_quotactl, 0, nullptr, 0, nullptr));
}
int TrySysinfo(const TryContext&) { return Outcome(::syscall(SYS_sysinfo, nullptr)); }
int TryPipe(const TryContext&) { return Outcome(::syscall(SYS_pipe2, nullptr, 0)); }
int TryVmsplice(const TryContext&) { return Outcome(::syscall(SYS_vmsplice, -1, nullptr, 0, 0)); }
int TrySplice(const TryContext&) {
  return Outcome(::syscall(SYS_splice, -1, nullptr, -1, nullptr, 1, 0));
}
int TrySetOwner(const TryContext& context) {
  return Outcome(::syscall(SYS_fcntl, -1, F_SETOWN, context.sibling));
}
int TryExecutablePage(const TryContext&) {
  void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return errno;
  const int outcome = Outcome(::syscall(SYS_mprotect, page, 4096, PROT_READ | PROT_EXEC));
  ::munmap(page, 4096);
  return outcome;
}
int TryExecutableMap(const TryContext&) {
  const long page =
      ::syscall(SYS_mmap, nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == -1) return errno;
  ::munmap(reinterpret_cast<void*>(page), 4096);
  return 0;
}

}  // namespace

void AppendKernelTries(std::vector<Try>& tries) {
  const std::vector<Try> table = {
      {"int80_socketcall", kAll, TryInt80Socketcall, {}, 0},
      {"int80_socket", kAll, TryInt80Socket, {}, 0},
      {"int80_getpid", kAll, TryInt80Getpid, {}, 0},
      {"x32_socket", kAll, TryX32Socket, {}, 0},
      {"io_uring_setup", kAll, TryIoUring, {}, 0},
      {"io_uring_enter", kAll, TryIoUringEnter, {EBADF}, 0},
      {"io_uring_register", kAll, TryIoUringRegister, {EBADF, EINVAL}, 0},
      {"userfaultfd", kAll, TryUserfaultfd, {}, 0},
      {"keyctl", kAll, TryKeyctl, {ENOKEY}, 0},
      {"add_key", kAll, TryAddKey, {EFAULT}, 0},
      {"memfd_create", kAll, TryMemfd, {}, 0},
      {"memfd_secret", kAll, TryMemfdSecret, {}, 0},
      {"modify_ldt", kAll, TryModifyLdt, {}, 0},
      {"personality", kAll, TryPersonality, {}, 0},
      {"inotify", kAll, TryInotify, {}, 0},
      {"fanotify", kAll, TryFanotify, {}, 0},
      {"shmget", kAll, TryShmget, {EINVAL}, 0},
      {"msgget", kAll, TryMsgget, {ENOENT}, 0},
      {"semget", kAll, TrySemget, {EINVAL}, 0},
      {"bpf", kAll, TryBpf, {EINVAL, EFAULT, E2BIG}, 0},
      {"perf_event_open", kAll, TryPerf, {EFAULT, EINVAL}, 0},
      {"syslog", kAll, TrySyslog, {}, 0},
      {"settimeofday", kAll, TrySettimeofday, {}, 0},
      {"clock_settime", kAll, TryClockSettime, {EFAULT}, 0},
      {"init_module", kAll, TryInitModule, {EFAULT, ENOEXEC, EINVAL}, 0},
      {"ioperm", kAll, TryIoperm, {EINVAL}, 0},
      {"swapon", kAll, TrySwapon, {EFAULT, EINVAL}, 0},
      {"quotactl", kAll, TryQuotactl, {EFAULT, EINVAL, ENOENT, ENODEV}, 0},
      {"sysinfo", kAll, TrySysinfo, {EFAULT}, 0},
      {"pipe", kAll, TryPipe, {EFAULT}, 0},
      {"vmsplice", kAll, TryVmsplice, {EBADF}, 0},
      {"splice", kAll, TrySplice, {EBADF}, 0},
      {"fcntl_set_owner", kAll, TrySetOwner, {EBADF}, 0},
      {"mprotect_executable", kG | kL | kC, TryExecutablePage, {}, 0},
      {"mmap_executable", kG | kL | kC, TryExecutableMap, {}, 0},
  };
  tries.insert(tries.end(), table.begin(), table.end());
}

}  // namespace tidegate::onshore
