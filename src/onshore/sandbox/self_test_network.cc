#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "base/file.h"
#include "onshore/sandbox/self_test_tries.h"

// Raw system calls throughout: a sanitizer's or libc's wrapper must not answer in the kernel's
// place.
namespace tidegate::onshore {
namespace {

constexpr int kNoFd = -1;
constexpr int kMptcp = 262;
constexpr int kSmcFamily = 43;
constexpr int kXdpFamily = 44;
constexpr int kMctpFamily = 45;
constexpr int kNextFamily = 46;  // not given yet: of a newer kernel

int MakeSocket(int family, int type, int protocol) {
  const long fd = ::syscall(SYS_socket, family, type | SOCK_CLOEXEC, protocol);
  if (fd < 0) return errno;
  ::close(static_cast<int>(fd));
  return 0;
}

sockaddr_in Loopback() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(9);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int TryConnect(const TryContext&) {
  const sockaddr_in address = Loopback();
  return Outcome(::syscall(SYS_connect, kNoFd, &address, sizeof(address)));
}
int TryBind(const TryContext&) {
  const sockaddr_in address = Loopback();
  return Outcome(::syscall(SYS_bind, kNoFd, &address, sizeof(address)));
}
int TryListen(const TryContext&) { return Outcome(::syscall(SYS_listen, kNoFd, 1)); }
int TryAccept(const TryContext&) { return Outcome(::syscall(SYS_accept, kNoFd, nullptr, nullptr)); }
int TryAccept4(const TryContext&) {
  return Outcome(::syscall(SYS_accept4, kNoFd, nullptr, nullptr, 0));
}

int SendToAddress(int flags) {
  const sockaddr_in address = Loopback();
  return Outcome(::syscall(SYS_sendto, kNoFd, "x", 1, flags, &address, sizeof(address)));
}
int TrySendToAddress(const TryContext&) { return SendToAddress(0); }
int TryFastOpen(const TryContext&) { return SendToAddress(MSG_FASTOPEN); }
int TryFastOpenSendmsg(const TryContext&) {
  sockaddr_in address = Loopback();
  char byte = 'x';
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_name = &address;
  message.msg_namelen = sizeof(address);
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  return Outcome(::syscall(SYS_sendmsg, kNoFd, &message, MSG_FASTOPEN));
}
int TryOutOfBand(const TryContext&) {
  return Outcome(::syscall(SYS_sendto, kNoFd, "x", 1, MSG_OOB, nullptr, 0));
}
int TryRecvFromAddress(const TryContext&) {
  char byte = 0;
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  return Outcome(::syscall(SYS_recvfrom, kNoFd, &byte, 1, 0, &address, &size));
}

int WithRights(long number, bool many) {
  char byte = 'x';
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  mmsghdr message{};
  message.msg_hdr.msg_iov = &part;
  message.msg_hdr.msg_iovlen = 1;
  message.msg_hdr.msg_control = control;
  message.msg_hdr.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message.msg_hdr);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  if (many) return Outcome(::syscall(number, kNoFd, &message, 1, MSG_DONTWAIT, nullptr));
  return Outcome(::syscall(number, kNoFd, &message.msg_hdr, MSG_DONTWAIT));
}
int TrySendmsg(const TryContext&) { return WithRights(SYS_sendmsg, false); }
int TryRecvmsg(const TryContext&) { return WithRights(SYS_recvmsg, false); }
int TrySendmmsg(const TryContext&) { return WithRights(SYS_sendmmsg, true); }
int TryRecvmmsg(const TryContext&) { return WithRights(SYS_recvmmsg, true); }

int TryInetStream(const TryContext&) { return MakeSocket(AF_INET, SOCK_STREAM, 0); }
int TryInet6Stream(const TryContext&) { return MakeSocket(AF_INET6, SOCK_STREAM, 0); }
int TryMptcp(const TryContext&) { return MakeSocket(AF_INET, SOCK_STREAM, kMptcp); }
int TryMptcp6(const TryContext&) { return MakeSocket(AF_INET6, SOCK_STREAM, kMptcp); }
int TryUdp(const TryContext&) { return MakeSocket(AF_INET, SOCK_DGRAM, IPPROTO_UDP); }
int TryIcmp(const TryContext&) { return MakeSocket(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
int TrySctp(const TryContext&) { return MakeSocket(AF_INET, SOCK_STREAM, IPPROTO_SCTP); }
int TryUnixDatagram(const TryContext&) { return MakeSocket(AF_UNIX, SOCK_DGRAM, 0); }

int TrySocketpair(const TryContext&) {
  int ends[2];
  if (::syscall(SYS_socketpair, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) != 0) return errno;
  ::close(ends[0]);
  ::close(ends[1]);
  return 0;
}

}  // namespace

const std::vector<Family>& Families() {
  static const std::vector<Family> kFamilies = {{"unix", AF_UNIX},
                                                {"inet", AF_INET},
                                                {"ax25", AF_AX25},
                                                {"ipx", AF_IPX},
                                                {"appletalk", AF_APPLETALK},
                                                {"netrom", AF_NETROM},
                                                {"bridge", AF_BRIDGE},
                                                {"atmpvc", AF_ATMPVC},
                                                {"x25", AF_X25},
                                                {"inet6", AF_INET6},
                                                {"rose", AF_ROSE},
                                                {"decnet", AF_DECnet},
                                                {"netbeui", AF_NETBEUI},
                                                {"security", AF_SECURITY},
                                                {"key", AF_KEY},
                                                {"netlink", AF_NETLINK},
                                                {"packet", AF_PACKET},
                                                {"ash", AF_ASH},
                                                {"econet", AF_ECONET},
                                                {"atmsvc", AF_ATMSVC},
                                                {"rds", AF_RDS},
                                                {"sna", AF_SNA},
                                                {"irda", AF_IRDA},
                                                {"pppox", AF_PPPOX},
                                                {"wanpipe", AF_WANPIPE},
                                                {"llc", AF_LLC},
                                                {"ib", AF_IB},
                                                {"mpls", AF_MPLS},
                                                {"can", AF_CAN},
                                                {"tipc", AF_TIPC},
                                                {"bluetooth", AF_BLUETOOTH},
                                                {"iucv", AF_IUCV},
                                                {"rxrpc", AF_RXRPC},
                                                {"isdn", AF_ISDN},
                                                {"phonet", AF_PHONET},
                                                {"ieee802154", AF_IEEE802154},
                                                {"caif", AF_CAIF},
                                                {"alg", AF_ALG},
                                                {"nfc", AF_NFC},
                                                {"vsock", AF_VSOCK},
                                                {"kcm", AF_KCM},
                                                {"qipcrtr", AF_QIPCRTR},
                                                {"smc", kSmcFamily},
                                                {"xdp", kXdpFamily},
                                                {"mctp", kMctpFamily},
                                                {"next", kNextFamily}};
  return kFamilies;
}

// The first type that the family has. Link's TCP sockets are its work (the supervisor makes them),
// so its internet families are tried with every other type.
int TryFamily(int family, Role role) {
  const bool work = role == Role::kLink && (family == AF_INET || family == AF_INET6);
  int error = EAFNOSUPPORT;
  for (int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_RDM}) {
    if (work && type == SOCK_STREAM) continue;
    error = MakeSocket(family, type, 0);
    if (error == 0) return 0;
    // A wall answers every type alike; a family answers those it has not with "no such type".
    if (error != ESOCKTNOSUPPORT && error != EPROTONOSUPPORT && error != EINVAL) return error;
  }
  return error;
}

void AppendNetworkTries(std::vector<Try>& tries) {
  const std::vector<Try> table = {
      {"socket_inet_stream", kT | kG | kC, TryInetStream, {}, 0},
      {"socket_inet6_stream", kT | kG | kC, TryInet6Stream, {}, 0},
      {"socket_mptcp", kAll, TryMptcp, {}, 0},
      {"socket_mptcp_inet6", kAll, TryMptcp6, {}, 0},
      {"socket_udp", kAll, TryUdp, {}, 0},
      {"socket_icmp_raw", kAll, TryIcmp, {}, 0},
      {"socket_sctp", kAll, TrySctp, {}, 0},
      {"socket_unix_datagram", kAll, TryUnixDatagram, {}, 0},
      {"socketpair", kAll, TrySocketpair, {}, 0},
      {"connect", kAll, TryConnect, {EBADF}, 0},
      {"bind", kAll, TryBind, {EBADF}, 0},
      {"listen", kAll, TryListen, {EBADF}, 0},
      {"accept", kAll, TryAccept, {EBADF}, 0},
      {"accept4", kAll, TryAccept4, {EBADF}, 0},
      {"sendto_address", kAll, TrySendToAddress, {EBADF}, 0},
      {"sendto_fastopen", kAll, TryFastOpen, {EBADF}, 0},
      {"sendto_out_of_band", kAll, TryOutOfBand, {EBADF}, 0},
      {"sendmsg_fastopen", kAll, TryFastOpenSendmsg, {EBADF}, 0},
      {"sendmsg_rights", kAll, TrySendmsg, {EBADF}, 0},
      {"recvmsg", kAll, TryRecvmsg, {EBADF}, 0},
      {"sendmmsg", kAll, TrySendmmsg, {EBADF}, 0},
      {"recvmmsg", kAll, TryRecvmmsg, {EBADF}, 0},
      {"recvfrom_address", kAll, TryRecvFromAddress, {EBADF}, 0},
  };
  tries.insert(tries.end(), table.begin(), table.end());
}

}  // namespace tidegate::onshore
