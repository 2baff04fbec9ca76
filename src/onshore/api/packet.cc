#include "onshore/api/packet.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace tidegate::onshore::api {
namespace {

constexpr size_t kMostDescriptors = 16;

// Room for the descriptors of one packet, aligned as the kernel wants it.
union Control {
  cmsghdr align;
  char room[CMSG_SPACE(kMostDescriptors * sizeof(int))];
};

void TakeDescriptors(msghdr& message, std::vector<Fd>* out) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      out->push_back(Fd(fd));
    }
  }
}

}  // namespace

Status SendPacket(int socket, ByteSpan bytes, std::span<const int> descriptors) {
  if (descriptors.size() > kMostDescriptors) {
    return InvalidArgument("{} descriptors for one packet; the most are {}", descriptors.size(),
                           kMostDescriptors);
  }
  iovec part{const_cast<uint8_t*>(bytes.data()), bytes.size()};
  Control control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.room;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(head), descriptors.data(), descriptors.size_bytes());
  }
  for (;;) {
    const ssize_t n = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == static_cast<ssize_t>(bytes.size())) return OkStatus();
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return DeadlineExceeded("the peer does not read");
    return Unavailable("the peer is gone: {}", std::strerror(n < 0 ? errno : EPIPE));
  }
}

Result<std::optional<Packet>> ReceivePacket(int socket, size_t most_bytes,
                                            size_t most_descriptors) {
  Packet packet;
  packet.bytes.resize(most_bytes);
  iovec part{packet.bytes.data(), packet.bytes.size()};
  Control control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.room;
  // More than these are closed by the kernel.
  message.msg_controllen = CMSG_SPACE(std::min(most_descriptors, kMostDescriptors) * sizeof(int));
  ssize_t n = 0;
  do {
    n = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    // A peer that ended without reading what we said: told once, before what it had said itself.
  } while (n < 0 && (errno == EINTR || errno == ECONNRESET));
  if (n < 0 && errno == EAGAIN) return std::nullopt;
  if (n <= 0) return Unavailable("the peer is gone");
  TakeDescriptors(message, &packet.descriptors);
  packet.cut = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  packet.bytes.resize(static_cast<size_t>(n));
  return std::optional<Packet>(std::move(packet));
}

}  // namespace tidegate::onshore::api
