#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <thread>
#include <vector>

#include "tests/onshore/sandbox/helper_work.h"

namespace tidegate::onshore {
namespace {

int Errno(long result) { return result < 0 ? errno : 0; }

sockaddr_in Elsewhere() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(7777);
  address.sin_addr.s_addr = htonl(0x0a090909);  // 10.9.9.9
  return address;
}

int Connect(int fd) {
  const sockaddr_in address = Elsewhere();
  return Errno(::syscall(SYS_connect, fd, &address, sizeof(address)));
}

int EarlySend() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  std::atomic<bool> answered = false;
  std::thread dial([fd, &answered] {
    Connect(fd);
    answered = true;
  });
  // A greeting and a request of its own.
  const char bytes[] = "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50";
  int error = 0;
  for (bool last = false; !last;) {
    last = answered;
    error = ::send(fd, bytes, sizeof(bytes) - 1, MSG_NOSIGNAL) < 0 ? errno : 0;
    if (error == 0) break;
    ::sched_yield();
  }
  dial.join();
  return error;
}

}  // namespace

int Attack(const std::string& name) {
  if (name == "socket") return Errno(::syscall(SYS_socket, AF_INET, SOCK_STREAM, 0));
  if (name == "connect") return Connect(-1);
  if (name == "mptcp") return Errno(::syscall(SYS_socket, AF_INET, SOCK_STREAM, 262));
  if (name == "vsock") return Errno(::syscall(SYS_socket, AF_VSOCK, SOCK_STREAM, 0));
  if (name == "fastopen") {
    const sockaddr_in address = Elsewhere();
    return Errno(
        ::syscall(SYS_sendto, kChannelFd, "x", 1, MSG_FASTOPEN, &address, sizeof(address)));
  }
  if (name == "memfd") return Errno(::syscall(SYS_memfd_create, "attack", 0));
  if (name == "prlimit") {
    // Of this process, but by number: without the filter it would work for any uid.
    rlimit limit{};
    return Errno(::syscall(SYS_prlimit64, ::getpid(), RLIMIT_NOFILE, nullptr, &limit));
  }
  if (name == "ptrace") return Errno(::syscall(SYS_ptrace, PTRACE_TRACEME, 0, nullptr, nullptr));
  if (name == "io_uring") {
    io_uring_params parameters{};
    return Errno(::syscall(SYS_io_uring_setup, 1, &parameters));
  }
  if (name == "seccomp") {
    const uint32_t action = SECCOMP_RET_ALLOW;
    return Errno(::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
  }
  if (name == "early_send") return EarlySend();
  if (name == "sendmsg") return Errno(::syscall(SYS_sendmsg, -1, nullptr, 0));
  if (name == "fork") return Errno(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (name == "execve") return Errno(::syscall(SYS_execve, "/bin/true", nullptr, nullptr));
  if (name == "x32") return Errno(::syscall(0x40000000 + SYS_socket, AF_INET, SOCK_STREAM, 0));
  if (name == "int80") {
    long result = 0;
    asm volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
    return result < 0 ? static_cast<int>(-result) : 0;
  }
  if (name == "ioctl") return Errno(::syscall(SYS_ioctl, 1, 0x5401 /* TCGETS */, nullptr));
  if (name == "unknown") return Errno(::syscall(0x3ff));
  return -1;
}

std::string ProbePin() {
  std::string text;
  const auto note = [&text](const char* name, int error) {
    text += std::string(name) + "=" + std::to_string(error) + " ";
  };
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  note("socket", fd < 0 ? errno : 0);
  note("connect", Connect(fd));
  note("connect_again", Connect(fd));
  note("connect_unknown", Connect(kChannelFd));
  const bool nonblocking = ::send(fd, "from link", 9, MSG_NOSIGNAL) == 9;
  note("send", nonblocking ? 0 : errno);
  note("udp", Errno(::socket(AF_INET, SOCK_DGRAM, 0)));
  note("mptcp", Errno(::socket(AF_INET, SOCK_STREAM, 262)));
  note("inet6", Errno(::socket(AF_INET6, SOCK_STREAM, 0)));
  std::vector<int> waiting;
  int error = 0;
  for (int i = 0; i < 40 && error == 0; ++i) {
    const int next = ::socket(AF_INET, SOCK_STREAM, 0);
    error = next < 0 ? errno : 0;
    if (next >= 0) waiting.push_back(next);
  }
  note("made", static_cast<int>(waiting.size()));
  note("limit", error);
  // Sixteen wait; the older ones can no longer be connected, the newest can, and so can one whose
  // number is used again.
  note("oldest", Connect(waiting.front()));
  note("newest", Connect(waiting.back()));
  const int reused = waiting[waiting.size() / 2];
  ::close(reused);
  const int again = ::socket(AF_INET, SOCK_STREAM, 0);
  note("same_number", again == reused ? 0 : again < 0 ? errno : -1);
  note("reused", again < 0 ? EBADF : Connect(again));
  // The server must see the end: nobody else holds this connection.
  note("close", Errno(::close(fd)));
  return text;
}

}  // namespace tidegate::onshore
