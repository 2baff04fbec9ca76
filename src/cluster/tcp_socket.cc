#include "cluster/tcp_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

namespace tidegate::cluster {
namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Result<Addresses> Resolve(const std::string& address, bool listen) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon == std::string::npos ? 0 : colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty() || colon + 1 == address.size()) {
    return InvalidArgument("\"{}\" is no address; write HOST:PORT", address);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (listen ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  const int code = ::getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &list);
  if (code != 0) return NotFound("cannot find {}: {}", address, ::gai_strerror(code));
  return Addresses(list);
}

Result<Fd> NewSocket(const addrinfo& address) {
  Fd fd(::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Unexpected(ErrnoStatus("make", "a socket", errno));
  return fd;
}

void SendAtOnce(const Fd& fd) {
  const int on = 1;
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// Waits for `events`; kDeadlineExceeded or kCancelled when they do not come.
Status Wait(const Fd& fd, short events, const Until& until, std::string_view peer) {
  while (true) {
    if (until.stop != nullptr && until.stop->load()) return Cancelled("{}: the group ended", peer);
    pollfd entry{.fd = fd.get(), .events = events, .revents = 0};
    const int ready = ::poll(&entry, 1, until.PollMillis());
    if (ready > 0) return OkStatus();
    if (ready < 0 && errno != EINTR) return ErrnoStatus("wait for", peer, errno);
    if (until.passed()) return DeadlineExceeded("{} did not answer in time", peer);
  }
}

Status Lost(std::string_view peer, int error) {
  if (error == 0) return Unavailable("{} has gone", peer);
  return Unavailable("the connection to {} is lost: {}", peer, std::strerror(error));
}

// One try. kUnavailable when nobody listens yet.
Result<Fd> TryConnect(const addrinfo& address, const std::string& name, const Until& until) {
  TG_ASSIGN_OR_RETURN(Fd fd, NewSocket(address));
  if (::connect(fd.get(), address.ai_addr, address.ai_addrlen) != 0 && errno != EINPROGRESS) {
    return Unexpected(Lost(name, errno));
  }
  TG_RETURN_IF_ERROR(Wait(fd, POLLOUT, until, name));
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) return Unexpected(Lost(name, error));
  SendAtOnce(fd);
  return fd;
}

}  // namespace

int Until::PollMillis() const {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count() + 1, 0, stop == nullptr ? 1000 : 50));
}

Result<Fd> TcpListen(const std::string& address) {
  TG_ASSIGN_OR_RETURN(const Addresses list, Resolve(address, true));
  TG_ASSIGN_OR_RETURN(Fd fd, NewSocket(*list));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd.get(), list->ai_addr, list->ai_addrlen) != 0 || ::listen(fd.get(), 128) != 0) {
    return Unexpected(ErrnoStatus("listen at", address, errno));
  }
  return fd;
}

Result<std::string> TcpAddress(const Fd& listener) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return Unexpected(ErrnoStatus("name", "a socket", errno));
  }
  const int code = ::getnameinfo(reinterpret_cast<sockaddr*>(&address), size, host, sizeof host,
                                 port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
  if (code != 0) return Internal("cannot name a socket: {}", ::gai_strerror(code));
  if (address.ss_family == AF_INET6) return fmt::format("[{}]:{}", host, port);
  return fmt::format("{}:{}", host, port);
}

Result<Fd> TcpAccept(const Fd& listener) {
  Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd.valid()) {
    SendAtOnce(fd);
    return fd;
  }
  // What ails one connection, or has no room at the moment, is no end of listening.
  const bool hopeless = errno == EBADF || errno == EINVAL || errno == ENOTSOCK;
  if (hopeless) return Unexpected(ErrnoStatus("accept on", "a listening socket", errno));
  return Fd();
}

Result<Fd> TcpConnect(const std::string& address, const Until& until) {
  while (true) {
    Status last = NotFound("cannot find {}", address);
    const auto list = Resolve(address, false);
    if (!list && list.error().code() == Code::kInvalidArgument) return Unexpected(list.error());
    for (const addrinfo* at = list ? list->get() : nullptr; at != nullptr; at = at->ai_next) {
      auto fd = TryConnect(*at, address, until);
      if (fd) return fd;
      last = fd.error();
      if (last.code() == Code::kCancelled) return Unexpected(last);
    }
    if (until.passed()) {
      return DeadlineExceeded("no connection to {} in time: {}", address, last.message());
    }
    // Rank 0 may not have started yet.
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

Status SendAll(const Fd& fd, ByteSpan bytes, const Until& until, std::string_view peer) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes = bytes.subspan(static_cast<size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      TG_RETURN_IF_ERROR(Wait(fd, POLLOUT, until, peer));
    } else if (errno != EINTR) {
      return Lost(peer, errno);
    }
  }
  return OkStatus();
}

Status ReceiveAll(const Fd& fd, std::span<uint8_t> bytes, const Until& until,
                  std::string_view peer) {
  while (!bytes.empty()) {
    TG_RETURN_IF_ERROR(Wait(fd, POLLIN, until, peer));
    TG_ASSIGN_OR_RETURN(const size_t got, ReceiveSome(fd, bytes, peer));
    bytes = bytes.subspan(got);
  }
  return OkStatus();
}

Result<size_t> ReceiveSome(const Fd& fd, std::span<uint8_t> bytes, std::string_view peer) {
  const ssize_t got = ::recv(fd.get(), bytes.data(), bytes.size(), 0);
  if (got > 0) return static_cast<size_t>(got);
  if (got == 0) return Unexpected(Lost(peer, 0));
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return size_t{0};
  return Unexpected(Lost(peer, errno));
}

}  // namespace tidegate::cluster
