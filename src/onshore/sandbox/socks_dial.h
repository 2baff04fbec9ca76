// A connection through a SOCKS5 proxy (RFC 1928, a user and a password by RFC 1929): a state
// machine over one non-blocking socket that its owner's poll loop moves on. It never waits.
//
// The proxy is a stranger: each byte of its answers is checked, what is kept of them is bounded,
// and no more is read than the answer has, because what follows the grant is the target's.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/file.h"

namespace tidegate::onshore {

struct SocksRoute {
  sockaddr_storage proxy{};
  // What the proxy is asked for: an address, or a name that the proxy resolves.
  sockaddr_storage target{};  // not used when there is a name
  std::string target_name;    // at most 255 bytes
  uint16_t target_port = 0;   // of the name
  // At most 255 bytes each; an empty user: none is offered. Never in a log.
  std::string user, password;

  SocksRoute() = default;
  SocksRoute(SocksRoute&&) = default;
  SocksRoute& operator=(SocksRoute&&) = default;
  ~SocksRoute();  // zeroes the password
};

// Why there is no connection.
enum class SocksFault : uint8_t {
  kNone = 0,
  kProxyUnreachable,  // its TCP connect failed
  kProxyClosed,       // it ended the connection before its answer was whole
  kNotSocks,          // a byte that RFC 1928 does not allow here
  kNoMethod,          // it takes none of the ways to log in that were offered
  kLogin,             // it refuses user and password
  kForbidden,         // its rules do not allow the target
  kTargetRefused,
  kTargetUnreachable,
  kUnsupported,  // no CONNECT, or not to such an address
  kTimedOut,
};
inline constexpr int kSocksFaultCount = 11;
// "proxy_closed" and the like, and what a person can do about it.
std::string_view SocksFaultName(SocksFault fault);
std::string_view SocksFaultRemedy(SocksFault fault);

class SocksDial {
 public:
  // An answer of the proxy has at most so many bytes: one with a name of 255.
  static constexpr size_t kMaxAnswer = 4 + 1 + 255 + 2;

  // Begins to connect to the proxy. The route outlives the dial.
  explicit SocksDial(const SocksRoute& route);
  // On a socket that connects already, non-blocking.
  SocksDial(Fd socket, const SocksRoute& route);
  SocksDial(SocksDial&&) = default;
  SocksDial& operator=(SocksDial&&) = default;
  ~SocksDial();

  enum class State : uint8_t { kPending, kGranted, kFailed };
  // Does what can be done now.
  State Advance();
  // Ends it: too late.
  void TimeOut() { Fail(SocksFault::kTimedOut, 0); }

  // What to poll for while it is pending.
  int descriptor() const { return socket_.get(); }
  short events() const;

  // When granted: the connection to the target; nothing of what it brings was read.
  Fd TakeSocket() { return std::move(socket_); }
  // When failed: what connect() says, and why.
  int error() const { return error_; }
  SocksFault fault() const { return fault_; }

 private:
  enum class Step : uint8_t { kConnect, kMethod, kLogin, kReply };

  void Fail(SocksFault fault, int error);
  void ForgetSent();
  bool Connected();
  bool Flush();
  bool Fill();
  void TakeAnswer();
  void TakeReply();
  void Ask(Step step, size_t answer_bytes);
  void Greet();
  void LogIn();
  void Request();

  const SocksRoute* route_;
  Fd socket_;
  State state_ = State::kPending;
  Step step_ = Step::kConnect;
  Bytes out_;        // one message at a time
  size_t sent_ = 0;  // of it
  std::array<uint8_t, kMaxAnswer> in_{};
  size_t have_ = 0, want_ = 0;  // bytes of the answer
  int error_ = 0;
  SocksFault fault_ = SocksFault::kNone;
};

}  // namespace tidegate::onshore
