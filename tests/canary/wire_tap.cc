#include "tests/canary/wire_tap.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace tidegate::canary {
namespace {

constexpr int kPollMillis = 20;

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

Result<Fd> Listen(uint16_t* port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  if (!fd.valid() || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(fd.get(), 16) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return Unexpected(ErrnoStatus("listen on", "loopback", errno));
  }
  *port = ntohs(address.sin_port);
  return fd;
}

}  // namespace

Result<std::unique_ptr<WireTap>> WireTap::Start(uint16_t port) {
  std::unique_ptr<WireTap> tap(new WireTap);
  TG_ASSIGN_OR_RETURN(tap->listener_, Listen(&tap->port_));
  tap->target_ = port;
  tap->thread_ = std::thread([raw = tap.get()] { raw->Run(); });
  return tap;
}

WireTap::~WireTap() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void WireTap::Accept() {
  Fd site(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!site.valid()) return;
  Fd coordinator(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(target_);
  // Refused: the site's end is closed, as it would have been without a tap.
  if (::connect(coordinator.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) !=
      0) {
    return;
  }
  const std::lock_guard lock(mutex_);
  connections_.push_back({std::move(site), std::move(coordinator), {}, {}});
}

// False when the connection has ended.
bool WireTap::Pass(const Connection& connection, bool from_site, uint64_t most, Bytes* captured) {
  const Fd& from = from_site ? connection.site : connection.coordinator;
  const Fd& to = from_site ? connection.coordinator : connection.site;
  uint8_t buffer[64 << 10];
  const ssize_t n =
      ::recv(from.get(), buffer, std::min<uint64_t>(sizeof(buffer), most), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  captured->insert(captured->end(), buffer, buffer + n);
  for (ssize_t sent = 0; sent < n;) {
    const ssize_t m = ::send(to.get(), buffer + sent, static_cast<size_t>(n - sent), MSG_NOSIGNAL);
    if (m < 0 && errno == EINTR) continue;
    if (m <= 0) return false;
    sent += m;
  }
  return true;
}

void WireTap::Run() {
  while (!stop_) {
    std::vector<pollfd> fds = {{listener_.get(), POLLIN, 0}};
    std::vector<std::pair<Connection*, uint64_t>> open;  // with what may pass from the site
    for (Connection& c : connections_) {
      if (!c.site.valid()) continue;
      const uint64_t limit = hold_after_;
      const uint64_t most = limit > c.out.size() ? limit - c.out.size() : 0;
      open.emplace_back(&c, most);
      fds.push_back({c.site.get(), static_cast<short>(most > 0 ? POLLIN : 0), 0});
      fds.push_back({c.coordinator.get(), POLLIN, 0});
    }
    if (::poll(fds.data(), fds.size(), kPollMillis) <= 0) continue;
    for (size_t i = 0; i < open.size(); ++i) {
      const auto& [connection, most] = open[i];
      const std::lock_guard lock(mutex_);
      const bool out =
          (fds[1 + 2 * i].revents & POLLIN) == 0 || Pass(*connection, true, most, &connection->out);
      const bool in = (fds[2 + 2 * i].revents & POLLIN) == 0 ||
                      Pass(*connection, false, UINT64_MAX, &connection->in);
      const short ended = POLLERR | POLLHUP | POLLNVAL;
      const bool gone = ((fds[1 + 2 * i].revents | fds[2 + 2 * i].revents) & ended) != 0 &&
                        ((fds[1 + 2 * i].revents | fds[2 + 2 * i].revents) & POLLIN) == 0;
      if (out && in && !gone) continue;
      connection->site.reset();
      connection->coordinator.reset();
    }
    if (fds[0].revents != 0) Accept();
  }
}

std::vector<WireTap::Stream> WireTap::Captured() const {
  const std::lock_guard lock(mutex_);
  std::vector<Stream> streams;
  size_t number = 0;
  for (const Connection& connection : connections_) {
    streams.push_back({fmt::format("connection {} from the site", number), connection.out});
    streams.push_back({fmt::format("connection {} to the site", number), connection.in});
    ++number;
  }
  return streams;
}

Result<Doorbell> Doorbell::Make() {
  Doorbell bell;
  TG_ASSIGN_OR_RETURN(bell.listener_, Listen(&bell.port_));
  return bell;
}

int Doorbell::Rings() {
  int rings = 0;
  while (Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)).valid()) ++rings;
  return rings;
}

}  // namespace tidegate::canary
