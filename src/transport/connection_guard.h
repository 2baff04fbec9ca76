// Watches the descriptors of a listening ZeroMQ socket from a thread of its own, because libzmq
// holds a multipart message whole whatever MAXMSGSIZE and RCVHWM say, accepts connections until
// there are no descriptors left (its I/O thread then spins), and has no call to close one peer.
//
// A connection that has brought more bytes than its allowance since its last whole message is shut
// down, whether or not the owner polls meanwhile; so is the oldest stranger when there are more
// connections than the cap. Public methods are for one thread, the owner's.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "transport/socket.h"

namespace tidegate::transport {

// A connection by more than its descriptor, whose number is soon another connection's.
struct ConnectionId {
  int descriptor = -1;
  std::string peer;  // its address and port as the kernel has them; empty: closed already
  bool operator==(const ConnectionId&) const = default;
};
ConnectionId ConnectionOf(int descriptor);

// Bytes that the kernel has received on a TCP connection so far; 0 when it is gone.
uint64_t BytesReceived(int descriptor);

// What a connection may bring without a whole message being taken: a stranger's handshake and HELLO
// many times over; of a peer, all that libzmq's queue and the kernel's buffer can hold.
inline constexpr uint64_t kStrangerBytes = 64u << 10;
uint64_t PeerAllowance();

class ConnectionGuard {
 public:
  // `monitor` tells ACCEPTED, DISCONNECTED and CLOSED and was connected before the bind.
  static Result<std::unique_ptr<ConnectionGuard>> Start(ZmqSocket monitor, size_t max_connections);
  ~ConnectionGuard();

  // A whole message came on this connection: its count begins anew, with the larger allowance.
  void Delivered(const ConnectionId& connection);
  // Ends a connection; nothing if the descriptor is another's by now.
  void Cut(const ConnectionId& connection);

  // Readable when there is something to Take.
  int wake_descriptor() const { return wake_.get(); }
  struct News {
    std::vector<ConnectionId> ended;
    uint64_t cut_for_bytes = 0, cut_for_number = 0;
  };
  News Take();

 private:
  struct Open {
    uint64_t base = 0;       // bytes received when the last message was whole
    uint64_t last = 0;       // bytes received at the last look
    uint64_t order = 0;      // of acceptance
    bool delivered = false;  // a message came: the handshake is done
    bool cut = false;
    std::string peer;
  };
  ConnectionGuard(ZmqSocket monitor, size_t max_connections, Fd wake, Fd stop)
      : monitor_(std::move(monitor)),
        max_(max_connections),
        wake_(std::move(wake)),
        stop_(std::move(stop)) {}
  void Watch();
  void OnEvent(const MonitorEvent& event);
  // Looks at every connection; true when one is bringing much.
  bool Look();
  void CutForNumber();
  void CutLocked(int descriptor, Open& open);
  Open& Add(const ConnectionId& connection);
  void Wake();

  ZmqSocket monitor_;  // the thread's
  const size_t max_;
  const Fd wake_, stop_;
  std::mutex mutex_;  // of all below
  std::map<int, Open> open_;
  uint64_t accepted_ = 0;
  News news_;
  std::thread thread_;
};

}  // namespace tidegate::transport
