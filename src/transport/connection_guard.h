// Watches the descriptors of a listening ZeroMQ socket, because libzmq holds a multipart message
// whole whatever MAXMSGSIZE and RCVHWM say, and has no call to close one peer. A connection that
// has brought more bytes than its allowance since its last whole message is shut down. Not
// thread-safe.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "transport/socket.h"

namespace tidegate::transport {

class ConnectionGuard {
 public:
  ConnectionGuard(ZmqSocket monitor, size_t max_connections)
      : monitor_(std::move(monitor)), max_(max_connections) {}

  void* monitor() const { return monitor_.get(); }
  // Reads events, checks allowances; returns how many connections were cut.
  int Check();
  // A whole message came from this descriptor; `authenticated` ones have the larger allowance.
  void Delivered(int descriptor);
  // Ends a connection.
  void Cut(int descriptor);
  size_t connections() const { return open_.size(); }

 private:
  struct Open {
    uint64_t base = 0;       // bytes received when the last message was whole
    bool delivered = false;  // a message came: the handshake is done
    std::string peer;        // so that a number used again is not mistaken
  };
  ZmqSocket monitor_;
  size_t max_;
  std::map<int, Open> open_;
};

}  // namespace tidegate::transport
