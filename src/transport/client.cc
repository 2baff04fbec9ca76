#include "transport/client.h"

#include <algorithm>
#include <deque>
#include <optional>

#include "base/clock.h"
#include "base/log.h"
#include "crypto/random.h"
#include "transport/connection_guard.h"
#include "transport/socket.h"

namespace tidegate::transport {
namespace {

using protocols::Channel;
using protocols::MessageType;

constexpr int64_t kFirstRedialMillis = 100, kMaxRedialMillis = 30'000;
// From dialling to the answered HELLO.
constexpr int64_t kDialMillis = 20'000;
constexpr int kConnectMillis = 10'000;
constexpr int64_t kLookMillis = 100;  // how often a connection's bytes are looked at
constexpr int64_t kLogMillis = 60'000;
constexpr int kMessagesAPoll = 256;
constexpr int kEnds = ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                      ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;

int64_t Now() { return SystemClock().MonotonicMillis(); }

// One of the connections. libzmq's own reconnecting gives up for good when the other side
// refuses a handshake, and does not slow down; so each dial is a new socket, in our time.
struct Line {
  Channel channel{};
  uint8_t stripe = 0;
  ZmqSocket socket, monitor;
  int descriptor = -1;  // of the established connection
  uint64_t base = 0;    // bytes received when the last message was whole
  bool shaken = false;  // HELLO may be said
  bool answered = false;
  uint64_t sequence = 0;
  std::deque<OutFrame> queue;
  size_t queued = 0;
  int64_t dial_at = 0;
  int64_t give_up_at = 0;
  int64_t redial_millis = kFirstRedialMillis;
};

class ClientImpl final : public Client {
 public:
  ClientImpl(ClientOptions options, crypto::CurveKeyPair key, ZmqContext context)
      : options_(std::move(options)), key_(std::move(key)), context_(std::move(context)) {}
  ~ClientImpl() override {
    for (Line& line : lines_) line.socket.StopMonitor();
  }

  Status Open() {
    uint8_t bytes[8];
    TG_RETURN_IF_ERROR(crypto::FillRandom(bytes));
    session_ = LoadLe64(bytes);
    lines_.resize(1 + options_.stripes);
    lines_[0].channel = Channel::kControl;
    for (size_t i = 1; i < lines_.size(); ++i) {
      lines_[i].channel = Channel::kBulk;
      lines_[i].stripe = static_cast<uint8_t>(i - 1);
    }
    for (Line& line : lines_) TG_RETURN_IF_ERROR(Dial(line));
    return OkStatus();
  }

  Status Poll(int timeout_millis, std::span<pollfd> extra, std::vector<Event>* events) override {
    std::vector<zmq_pollitem_t> items;
    for (Line& line : lines_) {
      TG_RETURN_IF_ERROR(KeepDialled(line));
      Flush(line);
      if (!line.socket.open()) continue;
      const int room = line.queue.empty() ? 0 : ZMQ_POLLOUT;
      items.push_back({line.socket.get(), 0, static_cast<short>(ZMQ_POLLIN | room), 0});
      items.push_back({line.monitor.get(), 0, ZMQ_POLLIN, 0});
    }
    const size_t own = items.size();
    AppendPollItems(extra, &items);
    const int64_t left = MillisToNext();
    if (timeout_millis < 0 || timeout_millis > left) timeout_millis = static_cast<int>(left);
    if (zmq_poll(items.data(), static_cast<int>(items.size()), timeout_millis) < 0 &&
        zmq_errno() != EINTR) {
      return ZmqStatus("poll");
    }
    TakePollResults(std::span(items).subspan(own), extra);
    for (Line& line : lines_) {
      // Messages of a connection before the news of its end, and HELLO before anything of the next.
      Receive(line);
      OnMonitor(line);
      Look(line);
      Flush(line);
    }
    events->insert(events->end(), std::make_move_iterator(pending_.begin()),
                   std::make_move_iterator(pending_.end()));
    pending_.clear();
    return OkStatus();
  }

  Status Send(Channel channel, MessageType type, ByteSpan body) override {
    // A connection that has ended and come back meanwhile takes nothing before its HELLO.
    for (Line& line : lines_) OnMonitor(line);
    if (!connected()) return Unavailable("the coordinator is not connected");
    Line& line = LineOf(channel);
    return Enqueue(line, protocols::Frame(type, options_.federation, ++line.sequence, body));
  }
  Status SendChunk(const protocols::Chunk& chunk) override {
    for (Line& line : lines_) OnMonitor(line);
    if (!connected()) return Unavailable("the coordinator is not connected");
    Line& line = LineOf(Channel::kBulk);
    return Enqueue(line, protocols::FrameChunk(options_.federation, ++line.sequence, chunk));
  }
  size_t Queued(Channel channel) const override {
    size_t queued = 0;
    for (const Line& line : lines_) queued += line.channel == channel ? line.queued : 0;
    return queued;
  }
  bool connected() const override { return lines_[0].answered && StripesUp() > 0; }
  uint32_t lease_millis() const override { return lease_millis_; }
  uint64_t session() const override { return session_; }

 private:
  size_t StripesUp() const {
    return static_cast<size_t>(
        std::count_if(lines_.begin() + 1, lines_.end(), [](const Line& l) { return l.answered; }));
  }
  // While connected: of bulk the stripe that has the least to do.
  Line& LineOf(Channel channel) {
    if (channel == Channel::kControl) return lines_[0];
    return *std::min_element(lines_.begin() + 1, lines_.end(), [](const Line& a, const Line& b) {
      return a.answered != b.answered ? a.answered : a.queued < b.queued;
    });
  }

  Status Dial(Line& line) {
    TG_ASSIGN_OR_RETURN(line.socket, ZmqSocket::Create(context_, ZMQ_DEALER));
    ZmqSocket& socket = line.socket;
    TG_RETURN_IF_ERROR(socket.SetBorderOptions(options_.address));
    TG_RETURN_IF_ERROR(socket.SetInt(ZMQ_IMMEDIATE, 1, "set IMMEDIATE"));
    TG_RETURN_IF_ERROR(socket.SetInt(ZMQ_RECONNECT_IVL, -1, "set RECONNECT_IVL"));
    TG_RETURN_IF_ERROR(socket.SetInt(ZMQ_CONNECT_TIMEOUT, kConnectMillis, "set CONNECT_TIMEOUT"));
    TG_RETURN_IF_ERROR(socket.SetCurveClient(key_, options_.server_key));
    // A name of its own each time: libzmq frees the former one's when it comes to it.
    const std::string endpoint = "inproc://client.monitor." + std::to_string(++dials_);
    TG_ASSIGN_OR_RETURN(
        line.monitor, socket.Monitor(context_, endpoint,
                                     kEnds | ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED));
    line.dial_at = 0;
    line.give_up_at = Now() + kDialMillis;
    return socket.Connect(options_.address);
  }

  // Ends the connection, if any, and sets the time of the next dial: later each time until a HELLO
  // is answered, with chance in it, so that sites do not come back all at once.
  void Hang(Line& line) {
    const bool was_connected = connected(), was_answered = line.answered;
    line.answered = false;
    if (was_connected && was_answered) {
      // With a stripe less what was under way on it is lost: to be said again, as after a
      // reconnect.
      const auto kind = connected() ? Event::Kind::kConnected : Event::Kind::kDisconnected;
      pending_.push_back({kind, line.channel, {}, {}});
    }
    line.socket.StopMonitor();
    line.monitor.Close();
    line.socket.Close();
    line.descriptor = -1;
    line.shaken = false;
    line.queue.clear();
    line.queued = 0;
    line.sequence = 0;
    uint8_t random[4] = {};
    // Without randomness it is only the jitter that is lost.
    [[maybe_unused]] const Status status = crypto::FillRandom(random);
    const int64_t half = line.redial_millis / 2;
    line.dial_at = Now() + half + LoadLe32(random) % (half + 1);
    line.redial_millis = std::min(2 * line.redial_millis, kMaxRedialMillis);
  }

  Status KeepDialled(Line& line) {
    if (line.socket.open() && !line.answered && Now() >= line.give_up_at) Hang(line);
    if (line.socket.open() || Now() < line.dial_at) return OkStatus();
    const Status status = Dial(line);
    // No more descriptors or memory now is no end: it is tried again.
    if (!status.ok()) {
      Complain(status.message());
      Hang(line);
    }
    return OkStatus();
  }

  int64_t MillisToNext() const {
    if (!pending_.empty()) return 0;
    int64_t next = INT32_MAX;
    const int64_t now = Now();
    for (const Line& line : lines_) {
      if (!line.socket.open()) next = std::min(next, line.dial_at - now);
      if (line.socket.open() && !line.answered) next = std::min(next, line.give_up_at - now);
      if (line.descriptor >= 0) next = std::min(next, kLookMillis);
    }
    return std::max<int64_t>(next, 0);
  }

  static Status Enqueue(Line& line, Bytes frame) {
    if (line.queued + frame.size() > kMaxQueuedBytes) {
      return ResourceExhausted("more than {} bytes wait for the coordinator", kMaxQueuedBytes);
    }
    line.queued += frame.size();
    line.queue.emplace_back(std::move(frame));
    Flush(line);
    return OkStatus();
  }

  static void Flush(Line& line) {
    while (line.socket.open() && !line.queue.empty()) {
      const size_t size = line.queue.front().size();
      if (!line.queue.front().Send(line.socket)) return;
      line.queued -= size;
      line.queue.pop_front();
    }
  }

  void OnMonitor(Line& line) {
    MonitorEvent event;
    while (line.monitor.open() && NextEvent(line.monitor, &event)) {
      if (event.event == ZMQ_EVENT_CONNECTED) {
        line.descriptor = event.value;
        line.base = 0;
      } else if (event.event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        line.shaken = true;
        SayHello(line);
      } else {
        if (event.event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
          Complain("the coordinator does not know this site's key; is it enrolled there?");
        }
        Hang(line);
      }
    }
  }

  void SayHello(Line& line) {
    protocols::Hello hello;
    std::copy_n(options_.site.begin(), std::min(options_.site.size(), hello.site.size()),
                hello.site.begin());
    hello.channel = line.channel;
    hello.stripe = line.stripe;
    hello.session = session_;
    // An empty queue takes a HELLO.
    [[maybe_unused]] const Status status =
        Enqueue(line, protocols::Frame(MessageType::kHello, options_.federation, ++line.sequence,
                                       protocols::Encode(hello)));
  }

  // A coordinator gone bad must not fill this process either (connection_guard.h).
  void Look(Line& line) {
    if (line.descriptor < 0) return;
    const uint64_t allowed = line.answered ? PeerAllowance() : kStrangerBytes;
    if (BytesReceived(line.descriptor) <= line.base + allowed) return;
    Complain("it sends more bytes than a message may have");
    Hang(line);
  }

  void Receive(Line& line) {
    for (int i = 0; i < kMessagesAPoll && line.socket.open(); ++i) {
      const auto frame = std::make_shared<ZmqFrame>();
      if (!frame->Receive(line.socket)) return;
      if (frame->more()) {
        Complain("it sends messages of several frames");
        Hang(line);
        return;
      }
      line.base = BytesReceived(line.descriptor);
      const auto parsed = protocols::ParseFrame(frame->bytes(), options_.federation);
      if (!parsed) {
        Complain(parsed.error().reason);
        Hang(line);
        return;
      }
      if (parsed->type == MessageType::kHello) {
        OnHello(line, parsed->body);
      } else if (line.answered) {
        pending_.push_back(
            {Event::Kind::kMessage, line.channel, parsed->type, Body(parsed->body, frame)});
      }
    }
  }

  void OnHello(Line& line, ByteSpan body) {
    const auto hello = protocols::Decode<protocols::Hello>(body);
    if (!hello || hello->session != session_ || hello->channel != line.channel ||
        hello->stripe != line.stripe || !line.shaken) {
      return;
    }
    const bool was_connected = connected();
    line.answered = true;
    line.redial_millis = kFirstRedialMillis;
    lease_millis_ = std::clamp<uint32_t>(hello->lease_millis, 100, 600'000);
    if (connected() && !was_connected) {
      pending_.push_back({Event::Kind::kConnected, line.channel, MessageType::kHello, {}});
    }
  }

  void Complain(std::string_view why) {
    const int64_t now = Now();
    if (complained_ && now - *complained_ < kLogMillis) return;
    complained_ = now;
    LogWarning("coordinator_refused reason=\"{}\"", why);
  }

  const ClientOptions options_;
  const crypto::CurveKeyPair key_;
  ZmqContext context_;
  std::vector<Line> lines_;  // control, then the stripes of bulk
  std::vector<Event> pending_;
  uint64_t session_ = 0;
  uint64_t dials_ = 0;
  uint32_t lease_millis_ = 10'000;
  std::optional<int64_t> complained_;
};

}  // namespace

Result<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options,
                                                const crypto::CurveKeyPair& key) {
  if (options.stripes < 1 || options.stripes > protocols::kMaxStripes) {
    return InvalidArgument("{} bulk connections; 1 to {} are possible", options.stripes,
                           protocols::kMaxStripes);
  }
  TG_ASSIGN_OR_RETURN(ZmqContext context, ZmqContext::Create());
  TG_ASSIGN_OR_RETURN(crypto::CurveKeyPair own,
                      crypto::CurveKeyPair::FromBytes(key.secret().reveal(), key.public_key()));
  auto client = std::make_unique<ClientImpl>(options, std::move(own), std::move(context));
  TG_RETURN_IF_ERROR(client->Open());
  return client;
}

}  // namespace tidegate::transport
