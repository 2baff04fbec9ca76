// libzmq behind RAII: sockets, messages, the settings that a border needs. Private to this module.
//
// Why these settings (measured with libzmq 4.3.4): by default one stranger's header that claims
// 8 GiB is believed, 1000 messages wait a peer, a silent peer keeps its descriptor for ever, and
// closing waits for ever. So a frame is at most MAXMSGSIZE (a multipart message escapes that: see
// connection_guard.h), queues are short, handshakes end in five seconds, dead peers are noticed by
// heartbeats, nothing lingers.
#pragma once

#include <poll.h>
#include <zmq.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "crypto/keyfile.h"

namespace tidegate::transport {

inline constexpr int64_t kMaxFrameBytes = (1 << 20) + (1 << 18);
// Messages that libzmq holds of one peer each way: 4 MiB of bulk, and a bound on what one can cost.
inline constexpr int kHighWaterMark = 16;
inline constexpr int kHandshakeMillis = 5000;

class ZmqContext {
 public:
  static Result<ZmqContext> Create();
  ZmqContext(ZmqContext&& other) noexcept : context_(std::exchange(other.context_, nullptr)) {}
  ~ZmqContext();
  void* get() const { return context_; }

 private:
  explicit ZmqContext(void* context) : context_(context) {}
  void* context_;
};

class ZmqSocket {
 public:
  ZmqSocket() = default;
  static Result<ZmqSocket> Create(const ZmqContext& context, int type);
  ZmqSocket(ZmqSocket&& other) noexcept : socket_(std::exchange(other.socket_, nullptr)) {}
  ZmqSocket& operator=(ZmqSocket&& other) noexcept;
  ~ZmqSocket();
  void* get() const { return socket_; }
  bool open() const { return socket_ != nullptr; }
  void Close();

  Status SetInt(int option, int value, const char* name);
  Status SetBytes(int option, ByteSpan value, const char* name);
  Status SetText(int option, const std::string& value, const char* name);
  // The settings of every socket that faces a border; `address` is what it will bind or dial.
  Status SetBorderOptions(const std::string& address);
  Status SetCurveClient(const crypto::CurveKeyPair& own, ByteSpan server_key);

  Status Connect(const std::string& address);
  Status Bind(const std::string& address);
  // A PAIR socket with this socket's events. Make it before bind or connect.
  Result<ZmqSocket> Monitor(const ZmqContext& context, const std::string& endpoint, int events);
  // Before the monitor's other end is closed: libzmq's thread would wait for a reader for ever.
  void StopMonitor();

 private:
  explicit ZmqSocket(void* socket) : socket_(socket) {}
  void* socket_ = nullptr;
};

// A received frame.
class ZmqFrame {
 public:
  ZmqFrame() { zmq_msg_init(&message_); }
  ~ZmqFrame() { zmq_msg_close(&message_); }
  ZmqFrame(const ZmqFrame&) = delete;
  ZmqFrame& operator=(const ZmqFrame&) = delete;
  // False when there is none now.
  bool Receive(const ZmqSocket& socket);
  bool more() const { return zmq_msg_more(&message_) != 0; }
  ByteSpan bytes() const;
  // The authenticated peer's user id, as ZAP gave it; "" for none.
  std::string user() const;
  int descriptor() const { return zmq_msg_get(&message_, ZMQ_SRCFD); }

 private:
  mutable zmq_msg_t message_;
};

// A frame to send, whose bytes libzmq takes over without a copy.
class OutFrame {
 public:
  explicit OutFrame(Bytes bytes);
  OutFrame(OutFrame&& other) noexcept;
  OutFrame& operator=(OutFrame&&) = delete;
  ~OutFrame() { zmq_msg_close(&message_); }
  size_t size() const { return size_; }
  // False when the socket takes nothing now (zmq_errno says why); the frame is still whole.
  bool Send(const ZmqSocket& socket);

 private:
  zmq_msg_t message_;
  size_t size_;
};

struct MonitorEvent {
  int event = 0;
  int value = 0;
};
// The next event of a monitor socket; false when there is none now.
bool NextEvent(const ZmqSocket& monitor, MonitorEvent* event);

// A poll of the owner's descriptors beside ZeroMQ's: what to wait for, and what came of it.
void AppendPollItems(std::span<const pollfd> extra, std::vector<zmq_pollitem_t>* items);
void TakePollResults(std::span<const zmq_pollitem_t> items, std::span<pollfd> extra);

Status ZmqStatus(const char* action);

}  // namespace tidegate::transport
