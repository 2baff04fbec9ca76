// Link's only way out: one address. Link has an empty network namespace; a seccomp filter in it
// hands every socket() and connect() to the supervisor, which makes the socket in its own namespace
// and connects it to the pinned address. What link wrote into the sockaddr is never read, so there
// is nothing to race: whatever it dials, it arrives at the coordinator.
//
// Through a SOCKS5 proxy the supervisor asks that for the coordinator. Link must not hold the
// connection until the proxy has granted it: it could ask for another address itself. So what
// socket() gives then is a place holder, and connect() puts the granted connection in its place.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "onshore/sandbox/socks_dial.h"

namespace tidegate::onshore {

// In link, while sendmsg is still allowed: installs the filter and sends its listener over the
// channel (SOCK_SEQPACKET). From here on socket() and connect() wait for the supervisor; if it is
// gone they fail with ENOSYS. Part of RaiseWalls.
Status PinAddress(int channel);

// In the supervisor: waits up to `timeout_ms` for the listener on its end of that channel, then
// closes the channel to further descriptors where the kernel can (6.16).
Result<Fd> ReceiveListener(int channel, int timeout_ms);

// "192.0.2.7:7443" or "[2001:db8::7]:7443"; literal addresses only, port 1 to 65535.
Result<sockaddr_storage> ParsePinnedAddress(std::string_view text);
std::string FormatAddress(const sockaddr_storage& address);

// In the supervisor, one for each link process. Not thread-safe.
class AddressPin {
 public:
  // Sockets made and not yet connected. One more makes the oldest unconnectable, so that sockets
  // which were closed unused do not add up.
  // libzmq connects each that it makes before it makes another, so these are enough for any number
  // of stripes.
  static constexpr size_t kMaxWaiting = 16;
  // Calls answered at once: those of a start with 16 stripes of bulk and a line for control, twice.
  static constexpr int kBurst = 34;
  static constexpr int kPerSecond = 8;  // and each second after that
  // Through a proxy: from connect() to the grant. Link's thread of all its connections waits so
  // long.
  static constexpr int64_t kDialMillis = 10'000;
  // After a proxy that took longer each connect() fails at once for so long: link's connections
  // that stand must not all starve behind one dial after the other.
  static constexpr int64_t kQuietMillis = 20'000;
  static constexpr int64_t kLogMillis = 60'000;  // of the same cause

  struct Counts {
    uint64_t sockets = 0;
    uint64_t connects = 0;
    uint64_t refused = 0;  // wrong family, type, protocol, unknown descriptor
    uint64_t limited = 0;  // over the rate: EAGAIN
    uint64_t evicted = 0;  // over kMaxWaiting
    uint64_t granted = 0;  // by the proxy
    uint64_t failed = 0;   // dials that the proxy did not grant
  };

  explicit AddressPin(const sockaddr_storage& pinned, const Clock& clock = SystemClock());
  // Through a proxy.
  explicit AddressPin(std::shared_ptr<const SocksRoute> route, const Clock& clock = SystemClock());
  AddressPin(const AddressPin&) = delete;
  AddressPin& operator=(const AddressPin&) = delete;

  // Answers one call. To be used when the listener polls readable; never waits. A caller that died
  // meanwhile is not an error. kUnavailable when link is gone.
  Status HandleNotification(int listener);

  // Dials through the proxy that are under way, at most kMaxWaiting: what to poll for, until when,
  // and after each poll what to do. Never waits. Dropped with this object.
  void AppendDials(std::vector<pollfd>* fds) const;
  std::optional<int64_t> NextDeadline() const;  // monotonic milliseconds
  void AdvanceDials(int listener);

  const Counts& counts() const { return counts_; }
  size_t waiting() const { return waiting_.size(); }
  size_t dialling() const { return dials_.size(); }

 private:
  // error 0: the call returns 0.
  static void Answer(int listener, uint64_t id, int error);
  void AnswerSocket(int listener, uint64_t id, const uint64_t* arguments);
  void AnswerConnect(int listener, uint64_t id, uint64_t descriptor);
  // address_pin_proxy.cc
  void BeginDial(int listener, uint64_t id, int descriptor);
  void EndDial(int listener, uint64_t id, int descriptor, SocksDial& dial);
  void Complain(SocksFault fault, int error);
  bool TakeToken();
  void EvictOldest();

  std::shared_ptr<const SocksRoute> route_;  // null: none
  sockaddr_storage pinned_;  // what sockets are connected to: the coordinator or the proxy
  const Clock& clock_;
  // The caller's descriptor number -> our end of the same socket, from socket() to connect().
  // Dropped at connect(), so that link's close() really closes the connection.
  struct Waiting {
    Fd socket;
    uint64_t order = 0;
  };
  std::map<int, Waiting> waiting_;
  struct Dial {
    uint64_t id = 0;  // of the connect() that waits
    int descriptor = -1;
    int64_t deadline = 0;
    SocksDial socks;
  };
  std::vector<Dial> dials_;
  int64_t quiet_until_ = 0;
  std::array<bool, kSocksFaultCount> told_{};  // since the last grant
  std::array<std::optional<int64_t>, kSocksFaultCount> logged_{};
  int64_t millitokens_ = kBurst * 1000;
  int64_t last_refill_ = 0;
  Counts counts_;
};

}  // namespace tidegate::onshore
