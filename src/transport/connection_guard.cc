#include "transport/connection_guard.h"

#include <linux/tcp.h>  // netinet/tcp.h ends before tcpi_bytes_received
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>

namespace tidegate::transport {
namespace {

constexpr int kCalmMillis = 50, kBusyMillis = 5;
// Bytes since the last look that make a connection one to look at often.
constexpr uint64_t kBusyBytes = 256u << 10;
constexpr uint64_t kUsualReceiveBuffer = 6u << 20, kMaxReceiveBuffer = 64u << 20;

// The most that the kernel buffers of one connection's input (tcp(7), tcp_rmem).
uint64_t ReceiveBuffer() {
  const auto text = ReadTextFile("/proc/sys/net/ipv4/tcp_rmem", 256);
  unsigned long long low = 0, usual = 0, most = 0;
  if (!text || std::sscanf(text->c_str(), "%llu %llu %llu", &low, &usual, &most) != 3) {
    return kUsualReceiveBuffer;
  }
  return std::min<uint64_t>(most, kMaxReceiveBuffer);
}

}  // namespace

ConnectionId ConnectionOf(int descriptor) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getpeername(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      (address.ss_family != AF_INET && address.ss_family != AF_INET6)) {
    return {descriptor, ""};
  }
  return {descriptor, std::string(reinterpret_cast<const char*>(&address), size)};
}

uint64_t BytesReceived(int descriptor) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (::getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return 0;
  return info.tcpi_bytes_received;
}

uint64_t PeerAllowance() {
  static const uint64_t allowance =
      (kHighWaterMark + 2) * static_cast<uint64_t>(kMaxFrameBytes) + ReceiveBuffer();
  return allowance;
}

Result<std::unique_ptr<ConnectionGuard>> ConnectionGuard::Start(ZmqSocket monitor,
                                                                size_t max_connections) {
  Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), stop(::eventfd(0, EFD_CLOEXEC));
  if (!wake.valid() || !stop.valid()) {
    return Unexpected(ErrnoStatus("make", "an event descriptor", errno));
  }
  PeerAllowance();  // reads its file here, before any walls of the caller
  std::unique_ptr<ConnectionGuard> guard(
      new ConnectionGuard(std::move(monitor), max_connections, std::move(wake), std::move(stop)));
  guard->thread_ = std::thread([self = guard.get()] { self->Watch(); });
  return guard;
}

ConnectionGuard::~ConnectionGuard() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(stop_.get(), &one, sizeof(one));
  thread_.join();
}

void ConnectionGuard::Watch() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  bool busy = false;
  for (;;) {
    zmq_pollitem_t items[2] = {{monitor_.get(), 0, ZMQ_POLLIN, 0},
                               {nullptr, stop_.get(), ZMQ_POLLIN, 0}};
    int timeout = busy ? kBusyMillis : kCalmMillis;
    {
      const std::lock_guard lock(mutex_);
      if (open_.empty()) timeout = -1;
    }
    if (zmq_poll(items, 2, timeout) < 0 && zmq_errno() != EINTR) return;
    if (items[1].revents != 0) return;
    const std::lock_guard lock(mutex_);
    for (MonitorEvent event; NextEvent(monitor_, &event);) OnEvent(event);
    busy = Look();
  }
}

ConnectionGuard::Open& ConnectionGuard::Add(const ConnectionId& connection) {
  Open& open = open_[connection.descriptor];
  if (open.peer == connection.peer && open.order != 0) return open;
  open = Open{};
  open.order = ++accepted_;
  open.peer = connection.peer;
  return open;
}

void ConnectionGuard::OnEvent(const MonitorEvent& event) {
  if (event.event == ZMQ_EVENT_ACCEPTED) {
    Add(ConnectionOf(event.value));
    CutForNumber();
    return;
  }
  const auto it = open_.find(event.value);
  if (it == open_.end()) return;
  news_.ended.push_back({event.value, it->second.peer});
  open_.erase(it);
  Wake();
}

// A stranger that only holds its place loses it to one that has come later and may be a site.
void ConnectionGuard::CutForNumber() {
  const auto standing = [](const auto& entry) { return !entry.second.cut; };
  const auto count = static_cast<size_t>(std::count_if(open_.begin(), open_.end(), standing));
  if (count <= max_) return;
  std::pair<const int, Open>* oldest = nullptr;
  std::pair<const int, Open>* newest = nullptr;
  for (auto& entry : open_) {
    const Open& open = entry.second;
    if (open.cut) continue;
    if (!open.delivered && (oldest == nullptr || open.order < oldest->second.order)) {
      oldest = &entry;
    }
    if (newest == nullptr || open.order > newest->second.order) newest = &entry;
  }
  auto* victim = oldest != nullptr ? oldest : newest;
  CutLocked(victim->first, victim->second);
  ++news_.cut_for_number;
  Wake();
}

bool ConnectionGuard::Look() {
  bool busy = false;
  for (auto& [descriptor, open] : open_) {
    const uint64_t received = BytesReceived(descriptor);
    busy = busy || received > open.last + kBusyBytes;
    open.last = received;
    if (open.cut || received <= open.base + (open.delivered ? PeerAllowance() : kStrangerBytes)) {
      continue;
    }
    CutLocked(descriptor, open);
    ++news_.cut_for_bytes;
    Wake();
  }
  return busy;
}

void ConnectionGuard::CutLocked(int descriptor, Open& open) {
  open.cut = true;
  if (!open.peer.empty() && open.peer == ConnectionOf(descriptor).peer) {
    ::shutdown(descriptor, SHUT_RDWR);
  }
}

void ConnectionGuard::Delivered(const ConnectionId& connection) {
  if (connection.peer.empty()) return;
  const std::lock_guard lock(mutex_);
  Open& open = Add(connection);
  open.delivered = true;
  open.base = BytesReceived(connection.descriptor);
}

void ConnectionGuard::Cut(const ConnectionId& connection) {
  const std::lock_guard lock(mutex_);
  const auto it = open_.find(connection.descriptor);
  if (it != open_.end() && it->second.peer == connection.peer) CutLocked(it->first, it->second);
}

void ConnectionGuard::Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof(one));
}

ConnectionGuard::News ConnectionGuard::Take() {
  uint64_t ignored = 0;
  [[maybe_unused]] const ssize_t n = ::read(wake_.get(), &ignored, sizeof(ignored));
  const std::lock_guard lock(mutex_);
  return std::exchange(news_, News{});
}

}  // namespace tidegate::transport
