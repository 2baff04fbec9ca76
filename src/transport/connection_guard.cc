#include "transport/connection_guard.h"

#include <linux/tcp.h>  // netinet/tcp.h ends before tcpi_bytes_received
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>

namespace tidegate::transport {
namespace {

// A handshake and a HELLO fit many times over.
constexpr uint64_t kStrangerBytes = 64u << 10;
// Messages of the high-water mark that libzmq may hold, and one more.
constexpr uint64_t kPeerBytes = (kHighWaterMark + 2) * static_cast<uint64_t>(kMaxFrameBytes);

std::string PeerName(int descriptor) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getpeername(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "";
  return std::string(reinterpret_cast<const char*>(&address), size);
}

// Bytes received on a connection so far; 0 when it is gone.
uint64_t Received(int descriptor) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (::getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return 0;
  return info.tcpi_bytes_received;
}

}  // namespace

int ConnectionGuard::Check() {
  int cut = 0;
  MonitorEvent event;
  while (NextEvent(monitor_, &event)) {
    if (event.event == ZMQ_EVENT_ACCEPTED) {
      open_[event.value] = {Received(event.value), false, PeerName(event.value)};
      if (open_.size() > max_) {
        Cut(event.value);
        ++cut;
      }
    } else if (event.event == ZMQ_EVENT_DISCONNECTED || event.event == ZMQ_EVENT_CLOSED) {
      open_.erase(event.value);
    }
  }
  for (auto& [descriptor, open] : open_) {
    const uint64_t received = Received(descriptor);
    const uint64_t allowed = open.delivered ? kPeerBytes : kStrangerBytes;
    if (received > open.base + allowed) {
      Cut(descriptor);
      open.base = received;
      ++cut;
    }
  }
  return cut;
}

void ConnectionGuard::Delivered(int descriptor) {
  const auto it = open_.find(descriptor);
  if (it == open_.end()) return;
  it->second.delivered = true;
  it->second.base = Received(descriptor);
}

void ConnectionGuard::Cut(int descriptor) {
  const auto it = open_.find(descriptor);
  if (it == open_.end() || it->second.peer.empty() || it->second.peer != PeerName(descriptor)) {
    return;
  }
  ::shutdown(descriptor, SHUT_RDWR);
}

}  // namespace tidegate::transport
