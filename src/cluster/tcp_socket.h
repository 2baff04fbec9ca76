// TCP with an end: every call has a deadline, and may be told to stop. IPv4 and IPv6.
// Errors name the address or the peer. Thread-safety: one thread a direction.
#pragma once

#include <atomic>
#include <chrono>
#include <string>

#include "base/bytes.h"
#include "base/file.h"

namespace tidegate::cluster {

// When to give up: at `end`, or soon after `*stop` is set (kCancelled).
struct Until {
  std::chrono::steady_clock::time_point end;
  const std::atomic<bool>* stop = nullptr;

  bool passed() const { return std::chrono::steady_clock::now() >= end; }
  // What poll() may wait for: until the end, but never so long that `stop` is not seen.
  int PollMillis() const;
};

// `address` is HOST:PORT or [IPV6]:PORT. Port 0 takes a free one.
Result<Fd> TcpListen(const std::string& address);
// What a listening socket is bound to, as an address for TcpConnect.
Result<std::string> TcpAddress(const Fd& listener);
// The next connection that is there, non-blocking; an invalid Fd where there is none.
Result<Fd> TcpAccept(const Fd& listener);
// Tries again while nobody listens there.
Result<Fd> TcpConnect(const std::string& address, const Until& until);

// `peer` is named in errors. kUnavailable when the connection is lost, kDeadlineExceeded.
Status SendAll(const Fd& fd, ByteSpan bytes, const Until& until, std::string_view peer);
Status ReceiveAll(const Fd& fd, std::span<uint8_t> bytes, const Until& until,
                  std::string_view peer);
// What is there now, at most bytes.size(); 0 when nothing is.
Result<size_t> ReceiveSome(const Fd& fd, std::span<uint8_t> bytes, std::string_view peer);

}  // namespace tidegate::cluster
