#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "onshore/sandbox/address_pin.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

namespace tidegate::onshore {
namespace {

// Raw BPF: libseccomp 2.5 makes one filter of a process the notifying one, and it would be the
// allowlist. Calls of another architecture pass here and are refused there.
Result<Fd> InstallFilter() {
  constexpr uint32_t kArch = offsetof(seccomp_data, arch);
  constexpr uint32_t kNumber = offsetof(seccomp_data, nr);
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kArch),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kNumber),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{sizeof(code) / sizeof(code[0]), code};
  // A signal must not make link repeat a socket() that the supervisor is answering (Linux 5.19).
  unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
  long fd = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  if (fd < 0 && errno == EINVAL) {
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
    fd = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  }
  if (fd < 0) return Unexpected(ErrnoStatus("install", "the filter of the pinned address", errno));
  return Fd(static_cast<int>(fd));
}

}  // namespace

Status PinAddress(int channel) {
  // The listener is closed here after sending: who holds it answers the calls.
  TG_ASSIGN_OR_RETURN(const Fd listener, InstallFilter());
  char tag = 'L';
  iovec part{&tag, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int number = listener.get();
  std::memcpy(CMSG_DATA(header), &number, sizeof(number));
  if (::sendmsg(channel, &message, MSG_NOSIGNAL) != 1) {
    return ErrnoStatus("send", "the listener of the pinned address to the supervisor", errno);
  }
  return OkStatus();
}

}  // namespace tidegate::onshore
