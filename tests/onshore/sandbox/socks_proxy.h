// A SOCKS5 proxy (RFC 1928, RFC 1929) on loopback for tests: CONNECT to an IPv4 address, or to a
// name, each of which is this machine. One thread of its own; all methods are thread-safe.
#pragma once

#include <atomic>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "base/file.h"
#include "onshore/sandbox/socks_dial.h"

namespace tidegate::onshore {

class SocksProxy {
 public:
  // With a user it takes nobody without that login.
  explicit SocksProxy(std::string user = "", std::string password = "");
  ~SocksProxy() { Stop(); }

  // A route through it to 127.0.0.1:`port`, with its login.
  std::shared_ptr<SocksRoute> Route(uint16_t port) const;
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // Listens, on the same port as before.
  void Start();
  // Ends all connections and listens no longer.
  void Stop();
  // Answers nothing more on connections that have no target yet.
  void Hold(bool hold) { hold_ = hold; }
  // Answers requests so; 0: grants them.
  void Refuse(uint8_t reply) { refuse_ = reply; }

  int open() const { return open_; }        // connections of clients
  int granted() const { return granted_; }  // so far
  // "127.0.0.1:7443" or "name:7443", as they were asked for.
  std::vector<std::string> requests() const;

 private:
  struct Pair {
    Fd client, target;
    Bytes in;  // until the target is connected
    bool greeted = false, logged_in = false, dead = false;
  };
  void Run();
  void Greet(Pair& pair);
  bool TakeGreeting(Pair& pair);
  bool TakeLogin(Pair& pair);
  void TakeRequest(Pair& pair);
  static void Move(const Fd& from, const Fd& to, Pair& pair);

  const std::string user_, password_;
  uint16_t port_ = 0;
  Fd listener_, wake_;
  std::thread thread_;
  std::atomic<bool> stop_ = false, hold_ = false;
  std::atomic<uint8_t> refuse_ = 0;
  std::atomic<int> open_ = 0, granted_ = 0;
  mutable std::mutex mutex_;
  std::vector<std::string> requests_;
};

}  // namespace tidegate::onshore
