#include "transport/socket.h"

#include <cerrno>
#include <cstring>
#include <utility>

namespace tidegate::transport {

Status ZmqStatus(const char* action) {
  const int error = zmq_errno();
  return MakeError(
      error == EADDRINUSE || error == EACCES ? Code::kFailedPrecondition : Code::kUnavailable,
      "cannot {}: {}", action, zmq_strerror(error));
}

Result<ZmqContext> ZmqContext::Create() {
  if (zmq_has("curve") != 1) return Unsupported("this libzmq was built without CURVE");
  void* context = zmq_ctx_new();
  if (context == nullptr) return Unexpected(ZmqStatus("make a ZeroMQ context"));
  // Sockets linger for no time unless they are told to.
  zmq_ctx_set(context, ZMQ_BLOCKY, 0);
  return ZmqContext(context);
}

ZmqContext::~ZmqContext() {
  if (context_ != nullptr) zmq_ctx_term(context_);
}

Result<ZmqSocket> ZmqSocket::Create(const ZmqContext& context, int type) {
  void* socket = zmq_socket(context.get(), type);
  if (socket == nullptr) return Unexpected(ZmqStatus("make a ZeroMQ socket"));
  return ZmqSocket(socket);
}

ZmqSocket& ZmqSocket::operator=(ZmqSocket&& other) noexcept {
  std::swap(socket_, other.socket_);
  return *this;
}

ZmqSocket::~ZmqSocket() { Close(); }

void ZmqSocket::Close() {
  if (socket_ != nullptr) zmq_close(std::exchange(socket_, nullptr));
}

void ZmqSocket::StopMonitor() {
  if (socket_ != nullptr) zmq_socket_monitor(socket_, nullptr, 0);
}

Status ZmqSocket::SetInt(int option, int value, const char* name) {
  return zmq_setsockopt(socket_, option, &value, sizeof(value)) == 0 ? OkStatus() : ZmqStatus(name);
}

Status ZmqSocket::SetBytes(int option, ByteSpan value, const char* name) {
  return zmq_setsockopt(socket_, option, value.data(), value.size()) == 0 ? OkStatus()
                                                                          : ZmqStatus(name);
}

Status ZmqSocket::SetText(int option, const std::string& value, const char* name) {
  return SetBytes(option, AsBytes(value), name);
}

Status ZmqSocket::SetBorderOptions(const std::string& address) {
  // Only where it is meant: with it, an IPv4 address is dialled through an IPv6 socket.
  if (address.find('[') != std::string::npos) TG_RETURN_IF_ERROR(SetInt(ZMQ_IPV6, 1, "set IPV6"));
  if (zmq_setsockopt(socket_, ZMQ_MAXMSGSIZE, &kMaxFrameBytes, sizeof(kMaxFrameBytes)) != 0) {
    return ZmqStatus("set MAXMSGSIZE");
  }
  const struct {
    int option, value;
    const char* name;
  } options[] = {{ZMQ_SNDHWM, kHighWaterMark, "set SNDHWM"},
                 {ZMQ_RCVHWM, kHighWaterMark, "set RCVHWM"},
                 {ZMQ_LINGER, 0, "set LINGER"},
                 {ZMQ_HANDSHAKE_IVL, kHandshakeMillis, "set HANDSHAKE_IVL"},
                 {ZMQ_HEARTBEAT_IVL, 10'000, "set HEARTBEAT_IVL"},
                 {ZMQ_HEARTBEAT_TIMEOUT, 60'000, "set HEARTBEAT_TIMEOUT"},
                 {ZMQ_HEARTBEAT_TTL, 60'000, "set HEARTBEAT_TTL"}};
  for (const auto& o : options) TG_RETURN_IF_ERROR(SetInt(o.option, o.value, o.name));
  return OkStatus();
}

Status ZmqSocket::SetCurveClient(const crypto::CurveKeyPair& own, ByteSpan server_key) {
  // Also what makes the socket speak CURVE and nothing else.
  TG_RETURN_IF_ERROR(SetBytes(ZMQ_CURVE_SERVERKEY, server_key, "set the server's CURVE key"));
  TG_RETURN_IF_ERROR(SetBytes(ZMQ_CURVE_PUBLICKEY, own.public_key(), "set the CURVE public key"));
  return SetBytes(ZMQ_CURVE_SECRETKEY, own.secret().reveal(), "set the CURVE secret key");
}

Status ZmqSocket::Connect(const std::string& address) {
  return zmq_connect(socket_, address.c_str()) == 0 ? OkStatus()
                                                    : ZmqStatus(("connect to " + address).c_str());
}

Status ZmqSocket::Bind(const std::string& address) {
  return zmq_bind(socket_, address.c_str()) == 0 ? OkStatus()
                                                 : ZmqStatus(("bind " + address).c_str());
}

Result<ZmqSocket> ZmqSocket::Monitor(const ZmqContext& context, const std::string& endpoint,
                                     int events) {
  if (zmq_socket_monitor(socket_, endpoint.c_str(), events) != 0) {
    return Unexpected(ZmqStatus("monitor a socket"));
  }
  TG_ASSIGN_OR_RETURN(ZmqSocket monitor, ZmqSocket::Create(context, ZMQ_PAIR));
  TG_RETURN_IF_ERROR(monitor.SetInt(ZMQ_LINGER, 0, "set LINGER"));
  TG_RETURN_IF_ERROR(monitor.Connect(endpoint));
  return monitor;
}

bool ZmqFrame::Receive(const ZmqSocket& socket) {
  zmq_msg_close(&message_);
  zmq_msg_init(&message_);
  return zmq_msg_recv(&message_, socket.get(), ZMQ_DONTWAIT) >= 0;
}

ByteSpan ZmqFrame::bytes() const {
  return {static_cast<const uint8_t*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
}

std::string ZmqFrame::user() const {
  const char* user = zmq_msg_gets(&message_, "User-Id");
  return user == nullptr ? "" : user;
}

OutFrame::OutFrame(Bytes bytes) : size_(bytes.size()) {
  auto owned = std::make_unique<Bytes>(std::move(bytes));
  const auto release = [](void*, void* hint) { delete static_cast<Bytes*>(hint); };
  // Fails only for want of memory, as a vector would throw.
  if (zmq_msg_init_data(&message_, owned->data(), size_, release, owned.get()) != 0) {
    throw std::bad_alloc();
  }
  static_cast<void>(owned.release());
}

OutFrame::OutFrame(OutFrame&& other) noexcept : size_(std::exchange(other.size_, 0)) {
  zmq_msg_init(&message_);
  zmq_msg_move(&message_, &other.message_);
}

bool OutFrame::Send(const ZmqSocket& socket) {
  return zmq_msg_send(&message_, socket.get(), ZMQ_DONTWAIT) >= 0;
}

bool NextEvent(const ZmqSocket& monitor, MonitorEvent* event) {
  ZmqFrame first;
  if (!first.Receive(monitor)) return false;
  if (first.bytes().size() >= 6) {
    event->event = LoadLe16(first.bytes().data());
    event->value = static_cast<int>(LoadLe32(first.bytes().data() + 2));
  }
  if (first.more()) {
    ZmqFrame address;
    address.Receive(monitor);
  }
  return true;
}

void AppendPollItems(std::span<const pollfd> extra, std::vector<zmq_pollitem_t>* items) {
  for (const pollfd& p : extra) {
    const int wanted =
        ((p.events & POLLIN) != 0 ? ZMQ_POLLIN : 0) | ((p.events & POLLOUT) != 0 ? ZMQ_POLLOUT : 0);
    items->push_back({nullptr, p.fd, static_cast<short>(wanted), 0});
  }
}

void TakePollResults(std::span<const zmq_pollitem_t> items, std::span<pollfd> extra) {
  for (size_t i = 0; i < extra.size(); ++i) {
    const short came = items[i].revents;
    extra[i].revents = static_cast<short>(((came & ZMQ_POLLIN) != 0 ? POLLIN : 0) |
                                          ((came & ZMQ_POLLOUT) != 0 ? POLLOUT : 0) |
                                          ((came & ZMQ_POLLERR) != 0 ? POLLERR : 0));
  }
}

}  // namespace tidegate::transport
