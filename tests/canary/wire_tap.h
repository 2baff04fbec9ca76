// A TCP proxy on loopback that keeps every byte that goes through it. One thread of its own; the
// public functions may be called from one other thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "base/file.h"
#include "base/status.h"

namespace tidegate::canary {

class WireTap {
 public:
  // Listens on a free port; connections go on to 127.0.0.1:`port`.
  static Result<std::unique_ptr<WireTap>> Start(uint16_t port);
  ~WireTap();

  uint16_t port() const { return port_; }
  // While held, at most that many more bytes of each connection pass from its dialler.
  void HoldAfter(uint64_t bytes) { hold_after_ = bytes; }
  void LetGo() { hold_after_ = UINT64_MAX; }

  struct Stream {
    std::string name;  // "connection 0 from the site"
    Bytes bytes;
  };
  // What has passed so far, a stream for each direction of each connection.
  std::vector<Stream> Captured() const;

 private:
  struct Connection {
    Fd site, coordinator;
    Bytes out, in;  // captured: from the site, to the site
  };
  WireTap() = default;
  void Run();
  void Accept();
  bool Pass(const Connection& connection, bool from_site, uint64_t most, Bytes* captured);

  Fd listener_;
  uint16_t port_ = 0, target_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> hold_after_ = UINT64_MAX;
  mutable std::mutex mutex_;  // connections_
  std::list<Connection> connections_;
  std::thread thread_;
};

// A listener that counts who connects and says nothing.
class Doorbell {
 public:
  static Result<Doorbell> Make();
  uint16_t port() const { return port_; }
  // Connections that wait to be accepted, since the last call.
  int Rings();

 private:
  Fd listener_;
  uint16_t port_ = 0;
};

}  // namespace tidegate::canary
