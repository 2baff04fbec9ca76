#include "transport/client.h"

#include <algorithm>
#include <cerrno>
#include <deque>

#include "crypto/random.h"
#include "transport/socket.h"

namespace tidegate::transport {
namespace {

using protocols::Channel;
using protocols::MessageType;

constexpr int kReconnectMillis = 100, kReconnectMaxMillis = 30'000;
constexpr int kMessagesAPoll = 256;
constexpr int kEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;

struct Line {
  Channel channel{};
  ZmqSocket socket, monitor;
  bool answered = false;
  uint64_t sequence = 0;
  std::deque<Bytes> queue;
  size_t queued = 0;
};

class ClientImpl final : public Client {
 public:
  ClientImpl(ClientOptions options, ZmqContext context)
      : options_(std::move(options)), context_(std::move(context)) {}

  Status Open(const crypto::CurveKeyPair& key) {
    uint8_t bytes[8];
    TG_RETURN_IF_ERROR(crypto::FillRandom(bytes));
    session_ = LoadLe64(bytes);
    for (const Channel channel : {Channel::kControl, Channel::kBulk}) {
      Line& line = LineOf(channel);
      line.channel = channel;
      TG_ASSIGN_OR_RETURN(line.socket, ZmqSocket::Create(context_, ZMQ_DEALER));
      TG_RETURN_IF_ERROR(line.socket.SetBorderOptions());
      TG_RETURN_IF_ERROR(line.socket.SetInt(ZMQ_IMMEDIATE, 1, "set IMMEDIATE"));
      TG_RETURN_IF_ERROR(
          line.socket.SetInt(ZMQ_RECONNECT_IVL, kReconnectMillis, "set RECONNECT_IVL"));
      TG_RETURN_IF_ERROR(
          line.socket.SetInt(ZMQ_RECONNECT_IVL_MAX, kReconnectMaxMillis, "set RECONNECT_IVL_MAX"));
      TG_RETURN_IF_ERROR(line.socket.SetCurveClient(key, options_.server_key));
      TG_ASSIGN_OR_RETURN(line.monitor, line.socket.Monitor(context_,
                                                            channel == Channel::kControl
                                                                ? "inproc://control.monitor"
                                                                : "inproc://bulk.monitor",
                                                            kEvents));
      TG_RETURN_IF_ERROR(line.socket.Connect(options_.address));
    }
    return OkStatus();
  }

  Status Poll(int timeout_millis, std::span<pollfd> extra, std::vector<Event>* events) override {
    bool waiting = false;
    std::vector<zmq_pollitem_t> items;
    for (Line& line : lines_) {
      Flush(line);
      waiting = waiting || !line.queue.empty();
      items.push_back({line.socket.get(), 0, ZMQ_POLLIN, 0});
      items.push_back({line.monitor.get(), 0, ZMQ_POLLIN, 0});
    }
    for (const pollfd& p : extra) {
      const int wanted =
          ((p.events & POLLIN) ? ZMQ_POLLIN : 0) | ((p.events & POLLOUT) ? ZMQ_POLLOUT : 0);
      items.push_back({nullptr, p.fd, static_cast<short>(wanted), 0});
    }
    if (waiting) timeout_millis = timeout_millis < 0 ? 2 : std::min(timeout_millis, 2);
    if (zmq_poll(items.data(), static_cast<int>(items.size()), timeout_millis) < 0 &&
        errno != EINTR) {
      return ZmqStatus("poll");
    }
    for (size_t i = 0; i < extra.size(); ++i) {
      const short r = items[4 + i].revents;
      extra[i].revents =
          static_cast<short>(((r & ZMQ_POLLIN) ? POLLIN : 0) | ((r & ZMQ_POLLOUT) ? POLLOUT : 0) |
                             ((r & ZMQ_POLLERR) ? POLLERR : 0));
    }
    for (Line& line : lines_) {
      // Messages of a connection before the news of its end, and HELLO before anything of the next.
      Receive(line, events);
      OnMonitor(line, events);
      Flush(line);
    }
    return OkStatus();
  }

  Status Send(Channel channel, MessageType type, ByteSpan body) override {
    if (!connected()) return Unavailable("the coordinator is not connected");
    return Enqueue(LineOf(channel), type, body);
  }
  size_t Queued(Channel channel) const override {
    return lines_[channel == Channel::kControl ? 0 : 1].queued;
  }
  bool connected() const override { return lines_[0].answered && lines_[1].answered; }
  uint32_t lease_millis() const override { return lease_millis_; }
  uint64_t session() const override { return session_; }

 private:
  Line& LineOf(Channel channel) { return lines_[channel == Channel::kControl ? 0 : 1]; }

  Status Enqueue(Line& line, MessageType type, ByteSpan body) {
    if (line.queued + body.size() > kMaxQueuedBytes) {
      return ResourceExhausted("more than {} bytes wait for the coordinator", kMaxQueuedBytes);
    }
    line.queue.push_back(protocols::Frame(type, options_.federation, ++line.sequence, body));
    line.queued += line.queue.back().size();
    Flush(line);
    return OkStatus();
  }

  void Flush(Line& line) {
    while (!line.queue.empty()) {
      const Bytes& frame = line.queue.front();
      if (zmq_send(line.socket.get(), frame.data(), frame.size(), ZMQ_DONTWAIT) < 0) return;
      line.queued -= frame.size();
      line.queue.pop_front();
    }
  }

  void OnMonitor(Line& line, std::vector<Event>* events) {
    MonitorEvent event;
    while (NextEvent(line.monitor, &event)) {
      const bool was_connected = connected();
      line.answered = false;
      line.queue.clear();
      line.queued = 0;
      if (was_connected) events->push_back({Event::Kind::kDisconnected, line.channel, {}, {}});
      if (event.event != ZMQ_EVENT_HANDSHAKE_SUCCEEDED) continue;
      protocols::Hello hello;
      std::copy_n(options_.site.begin(), std::min(options_.site.size(), hello.site.size()),
                  hello.site.begin());
      hello.channel = line.channel;
      hello.session = session_;
      // An empty queue takes a HELLO.
      [[maybe_unused]] const Status status =
          Enqueue(line, MessageType::kHello, protocols::Encode(hello));
    }
  }

  void Receive(Line& line, std::vector<Event>* events) {
    ZmqFrame frame;
    for (int i = 0; i < kMessagesAPoll && frame.Receive(line.socket); ++i) {
      if (frame.more()) {
        do {
          frame.Receive(line.socket);
        } while (frame.more());
        continue;
      }
      const auto parsed = protocols::ParseFrame(frame.bytes(), options_.federation);
      if (!parsed) continue;
      if (parsed->type == MessageType::kHello) {
        const auto hello = protocols::Decode<protocols::Hello>(parsed->body);
        if (!hello || hello->session != session_ || hello->channel != line.channel) continue;
        const bool was_connected = connected();
        line.answered = true;
        lease_millis_ = std::clamp<uint32_t>(hello->lease_millis, 100, 600'000);
        if (connected() && !was_connected) {
          events->push_back({Event::Kind::kConnected, line.channel, parsed->type, {}});
        }
        continue;
      }
      events->push_back({Event::Kind::kMessage, line.channel, parsed->type,
                         Bytes(parsed->body.begin(), parsed->body.end())});
    }
  }

  ClientOptions options_;
  ZmqContext context_;
  Line lines_[2];
  uint64_t session_ = 0;
  uint32_t lease_millis_ = 10'000;
};

}  // namespace

Result<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options,
                                                const crypto::CurveKeyPair& key) {
  TG_ASSIGN_OR_RETURN(ZmqContext context, ZmqContext::Create());
  auto client = std::make_unique<ClientImpl>(options, std::move(context));
  TG_RETURN_IF_ERROR(client->Open(key));
  return client;
}

}  // namespace tidegate::transport
