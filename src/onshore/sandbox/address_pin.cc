#include "onshore/sandbox/address_pin.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace tidegate::onshore {
namespace {

constexpr int kSoPassRights = 83;

socklen_t AddressSize(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

}  // namespace

void AddressPin::Answer(int listener, uint64_t id, int error) {
  seccomp_notif_resp response{};
  response.id = id;
  response.error = -error;
  // ENOENT: the caller died or was interrupted. It needs no answer then.
  (void)::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

Result<Fd> ReceiveListener(int channel, int timeout_ms) {
  pollfd wait{channel, POLLIN, 0};
  const int ready = ::poll(&wait, 1, timeout_ms);
  if (ready < 0) return Unexpected(ErrnoStatus("wait for", "link's listener", errno));
  if (ready == 0) {
    return DeadlineExceeded("link sent no listener for its pinned address within {} ms",
                            timeout_ms);
  }
  char tag = 0;
  iovec part{&tag, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = ::recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
  if (got == 0) return Unavailable("link ended before it pinned its address");
  if (got < 0) return Unexpected(ErrnoStatus("receive", "link's listener", errno));
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  Fd listener;
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
      header->cmsg_len == CMSG_LEN(sizeof(int))) {
    int number = -1;
    std::memcpy(&number, CMSG_DATA(header), sizeof(number));
    listener = Fd(number);
  }
  if (!listener.valid() || tag != 'L' || (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) {
    return PermissionDenied("link's first message is not the listener of its pinned address");
  }
  const int off = 0;
  (void)::setsockopt(channel, SOL_SOCKET, kSoPassRights, &off, sizeof(off));
  return listener;
}

Result<sockaddr_storage> ParsePinnedAddress(std::string_view text) {
  const auto bad = [text](std::string_view why) -> Error {
    return InvalidArgument(
        "'{}' is not an address to pin: {}; write 192.0.2.7:7443 or [2001:db8::7]:7443", text, why);
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad("it has no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  unsigned port = 0;
  const auto parsed = std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (parsed.ec != std::errc() || parsed.ptr != port_text.data() + port_text.size() || port == 0 ||
      port > 65535) {
    return bad("its port is not a number from 1 to 65535");
  }
  sockaddr_storage address{};
  if (host.starts_with('[') && host.ends_with(']')) {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    host = host.substr(1, host.size() - 2);
    if (::inet_pton(AF_INET6, std::string(host).c_str(), &v6->sin6_addr) != 1) {
      return bad("the part in brackets is no IPv6 address");
    }
    return address;
  }
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
  v4->sin_family = AF_INET;
  v4->sin_port = htons(static_cast<uint16_t>(port));
  if (::inet_pton(AF_INET, std::string(host).c_str(), &v4->sin_addr) != 1) {
    return bad("the host is no IPv4 address (names are resolved before the walls)");
  }
  return address;
}

std::string FormatAddress(const sockaddr_storage& address) {
  char host[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    ::inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
    return fmt::format("[{}]:{}", host, ntohs(v6->sin6_port));
  }
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
  ::inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
  return fmt::format("{}:{}", host, ntohs(v4->sin_port));
}

AddressPin::AddressPin(const sockaddr_storage& pinned, const Clock& clock)
    : pinned_(pinned), clock_(clock), last_refill_(clock.MonotonicMillis()) {}

AddressPin::AddressPin(std::shared_ptr<const SocksRoute> route, const Clock& clock)
    : AddressPin(route->proxy, clock) {
  route_ = std::move(route);
}

bool AddressPin::TakeToken() {
  const int64_t now = clock_.MonotonicMillis();
  const int64_t passed = std::min<int64_t>(now - last_refill_, 60'000);
  last_refill_ = now;
  millitokens_ = std::min<int64_t>(millitokens_ + passed * kPerSecond, kBurst * 1000);
  if (millitokens_ < 1000) return false;
  millitokens_ -= 1000;
  return true;
}

void AddressPin::EvictOldest() {
  const auto oldest = std::min_element(
      waiting_.begin(), waiting_.end(),
      [](const auto& a, const auto& b) { return a.second.order < b.second.order; });
  waiting_.erase(oldest);
  ++counts_.evicted;
}

void AddressPin::AnswerSocket(int listener, uint64_t id, const uint64_t* arguments) {
  const int family = static_cast<int>(arguments[0]);
  const int type = static_cast<int>(arguments[1]) & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
  const int protocol = static_cast<int>(arguments[2]);
  if ((family != AF_INET && family != AF_INET6) || type != SOCK_STREAM ||
      (protocol != 0 && protocol != IPPROTO_TCP)) {
    ++counts_.refused;
    return Answer(listener, id, EPERM);
  }
  if (family != pinned_.ss_family) {
    // What a host without that family says; libraries fall back to the other one.
    ++counts_.refused;
    return Answer(listener, id, EAFNOSUPPORT);
  }
  if (!TakeToken()) {
    ++counts_.limited;
    return Answer(listener, id, EAGAIN);
  }
  // Always non-blocking: connect() happens in this process, which must not wait.
  Fd made(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made.valid()) return Answer(listener, id, errno);
  seccomp_notif_addfd add{};
  add.id = id;
  add.flags = SECCOMP_ADDFD_FLAG_SEND;
  add.srcfd = static_cast<uint32_t>(made.get());
  add.newfd_flags = O_CLOEXEC;
  const int number = ::ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
  if (number < 0) {
    // EMFILE of the caller's own limit must be answered; if it died, nobody hears.
    return Answer(listener, id, errno);
  }
  ++counts_.sockets;
  // A number that comes back replaces its old entry: that socket is closed.
  waiting_.insert_or_assign(number, Waiting{std::move(made), counts_.sockets});
  if (waiting_.size() > kMaxWaiting) EvictOldest();
}

void AddressPin::AnswerConnect(int listener, uint64_t id, uint64_t descriptor) {
  const auto found = waiting_.find(static_cast<int>(descriptor));
  if (found == waiting_.end()) {
    ++counts_.refused;
    return Answer(listener, id, EPERM);
  }
  const Fd socket = std::move(found->second.socket);
  waiting_.erase(found);
  ++counts_.connects;
  if (route_) return BeginDial(listener, id, static_cast<int>(descriptor));
  const int failed =
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&pinned_), AddressSize(pinned_));
  Answer(listener, id, failed == 0 ? 0 : errno);
}

Status AddressPin::HandleNotification(int listener) {
  pollfd now{listener, POLLIN, 0};
  const int ready = ::poll(&now, 1, 0);
  if (ready < 0) return ErrnoStatus("poll", "link's listener", errno);
  if ((now.revents & POLLIN) == 0) {
    if ((now.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
      return Unavailable("link is gone: its listener has hung up");
    }
    return OkStatus();
  }
  // A newer kernel may write more than the structure that this was built with.
  alignas(seccomp_notif) char buffer[512] = {};
  if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, buffer) != 0) {
    if (errno == ENOENT || errno == EINTR || errno == EAGAIN) return OkStatus();
    return ErrnoStatus("receive from", "link's listener", errno);
  }
  seccomp_notif call{};
  std::memcpy(&call, buffer, sizeof(call));
  if (call.data.arch == AUDIT_ARCH_X86_64 && call.data.nr == SYS_socket) {
    AnswerSocket(listener, call.id, reinterpret_cast<const uint64_t*>(call.data.args));
  } else if (call.data.arch == AUDIT_ARCH_X86_64 && call.data.nr == SYS_connect) {
    AnswerConnect(listener, call.id, call.data.args[0]);
  } else {
    ++counts_.refused;
    Answer(listener, call.id, EPERM);
  }
  return OkStatus();
}

}  // namespace tidegate::onshore
