#include "transport/server.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <optional>
#include <set>

#include "base/clock.h"
#include "base/log.h"
#include "transport/connection_guard.h"
#include "transport/zap.h"

namespace tidegate::transport {
namespace {

using protocols::Channel;
using protocols::MessageType;

constexpr int kZapEnforceDomain = 93;  // not in Debian 12's zmq.h
constexpr const char* kDomain = "tidegate";
constexpr int kWaitingMillis = 2;  // ROUTER cannot tell when one full peer has room again
constexpr int kSelfTestMillis = 5000;
constexpr int kRefusedStatus = 400;  // the ZAP handler's answer for an unknown key
constexpr int64_t kLogMillis = 60'000;
constexpr int kMessagesAPoll = 256;
constexpr size_t kMaxGone = 1024;  // routing ids of ended connections, whose last words may come
// Descriptors for all but connections: files, databases, libzmq's own.
constexpr size_t kOtherDescriptors = 64;
constexpr size_t kLeastConnections = 16;

// Why a peer was refused. A closed set: what peers can vary must not vary the log.
enum class Cause : uint8_t { kBytes, kNumber, kFrames, kFraming, kNoHello, kWrongHello };
constexpr const char* kCauses[] = {"more bytes than a message may have",
                                   "more connections than the cap",
                                   "a message of several frames",
                                   "a message that is not of this protocol",
                                   "a message before HELLO",
                                   "a HELLO that is not the connection's"};

// One of a site's connections.
struct Route {
  std::string site;
  Channel channel = Channel::kControl;
  uint8_t stripe = 0;
  auto operator<=>(const Route&) const = default;
};

class ServerImpl final : public Server {
 public:
  ServerImpl(ServerOptions options, ZmqContext context)
      : options_(std::move(options)), context_(std::move(context)) {}

  Status Open(const crypto::CurveKeyPair& key) {
    TG_ASSIGN_OR_RETURN(zap_, ZapHandler::Start(context_));
    for (const auto& [site, curve] : options_.sites) zap_->Allow(site, curve);
    TG_ASSIGN_OR_RETURN(router_, ZmqSocket::Create(context_, ZMQ_ROUTER));
    TG_RETURN_IF_ERROR(router_.SetBorderOptions(options_.address));
    TG_RETURN_IF_ERROR(router_.SetInt(ZMQ_ROUTER_MANDATORY, 1, "set ROUTER_MANDATORY"));
    TG_RETURN_IF_ERROR(router_.SetInt(ZMQ_CURVE_SERVER, 1, "set CURVE_SERVER"));
    TG_RETURN_IF_ERROR(
        router_.SetBytes(ZMQ_CURVE_SECRETKEY, key.secret().reveal(), "set the CURVE key"));
    TG_RETURN_IF_ERROR(router_.SetText(ZMQ_ZAP_DOMAIN, kDomain, "set ZAP_DOMAIN"));
    TG_RETURN_IF_ERROR(router_.SetInt(kZapEnforceDomain, 1, "set ZAP_ENFORCE_DOMAIN"));
    TG_ASSIGN_OR_RETURN(
        ZmqSocket monitor,
        router_.Monitor(context_, "inproc://tidegate.server.monitor",
                        ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED));
    TG_ASSIGN_OR_RETURN(guard_,
                        ConnectionGuard::Start(std::move(monitor), options_.max_connections));
    TG_RETURN_IF_ERROR(router_.Bind(options_.address));
    char endpoint[256];
    size_t size = sizeof(endpoint);
    if (zmq_getsockopt(router_.get(), ZMQ_LAST_ENDPOINT, endpoint, &size) != 0) {
      return ZmqStatus("read the bound address");
    }
    address_ = endpoint;
    TG_RETURN_IF_ERROR(SelfTest(key));
    refused_in_test_ = zap_->refused();
    return OkStatus();
  }

  ~ServerImpl() override { router_.StopMonitor(); }

  Status Poll(int timeout_millis, std::span<pollfd> extra, std::vector<Event>* events) override {
    Flush();
    std::vector<zmq_pollitem_t> items = {{router_.get(), 0, ZMQ_POLLIN, 0},
                                         {nullptr, guard_->wake_descriptor(), ZMQ_POLLIN, 0}};
    AppendPollItems(extra, &items);
    if (!lost_.empty()) timeout_millis = 0;
    if (waiting_ && (timeout_millis < 0 || timeout_millis > kWaitingMillis)) {
      timeout_millis = kWaitingMillis;
    }
    if (zmq_poll(items.data(), static_cast<int>(items.size()), timeout_millis) < 0 &&
        zmq_errno() != EINTR) {
      return ZmqStatus("poll");
    }
    TakePollResults(std::span(items).subspan(2), extra);
    events_ = events;
    events->insert(events->end(), std::make_move_iterator(lost_.begin()),
                   std::make_move_iterator(lost_.end()));
    lost_.clear();
    bool drained = false;
    for (int i = 0; i < kMessagesAPoll && !drained; ++i) drained = !ReceiveOne();
    // A connection's last words come before the news of its end.
    if (drained) TakeNews();
    Flush();
    events_ = nullptr;
    return OkStatus();
  }

  Status Send(const std::string& site, Channel channel, MessageType type, ByteSpan body) override {
    const std::optional<std::string> id = IdleStripe(site, channel);
    if (!id) return Unavailable("site {} is not connected", site);
    return Enqueue(*id, type, body);
  }
  Status SendChunk(const std::string& site, const protocols::Chunk& chunk) override {
    const std::optional<std::string> id = IdleStripe(site, Channel::kBulk);
    if (!id) return Unavailable("site {} is not connected", site);
    Peer& peer = peers_.at(*id);
    TG_RETURN_IF_ERROR(CheckRoom(peer.route, chunk.bytes.size()));
    EnqueueFrame(*id, peer, protocols::FrameChunk(options_.federation, ++peer.sequence, chunk));
    return OkStatus();
  }

  size_t Queued(const std::string& site, Channel channel) const override {
    size_t queued = 0;
    for (auto it = routes_.lower_bound({site, channel, 0});
         it != routes_.end() && it->first.site == site && it->first.channel == channel; ++it) {
      queued += peers_.at(it->second).queued;
    }
    return queued;
  }
  bool Connected(const std::string& site, Channel channel) const override {
    return !IdsOf(site, channel).empty();
  }
  void Allow(const std::string& site, const CurveKey& key) override { zap_->Allow(site, key); }
  void Revoke(const std::string& site) override {
    zap_->Revoke(site);
    DropAll(site);
  }
  const std::string& address() const override { return address_; }
  uint64_t refused() const override { return refused_ + zap_->refused() - refused_in_test_; }

 private:
  struct Peer {
    Route route;
    ConnectionId connection;
    uint64_t session = 0;
    uint64_t sequence = 0;
    std::deque<OutFrame> queue;
    size_t queued = 0;
  };

  // The connections of a site's channel, by routing id; empty when there is none.
  std::vector<std::string> IdsOf(const std::string& site, Channel channel) const {
    std::vector<std::string> ids;
    for (auto it = routes_.lower_bound({site, channel, 0});
         it != routes_.end() && it->first.site == site && it->first.channel == channel; ++it) {
      ids.push_back(it->second);
    }
    return ids;
  }

  // The stripe that has the least to do.
  std::optional<std::string> IdleStripe(const std::string& site, Channel channel) const {
    const std::vector<std::string> ids = IdsOf(site, channel);
    if (ids.empty()) return std::nullopt;
    return *std::min_element(ids.begin(), ids.end(), [this](auto& a, auto& b) {
      return peers_.at(a).queued < peers_.at(b).queued;
    });
  }

  // A site may have many connections and read none of them: one bound for all that waits for it.
  Status CheckRoom(const Route& route, size_t bytes) const {
    const size_t most = route.channel == Channel::kControl
                            ? protocols::kMaxQueuedForSite
                            : protocols::kMaxQueuedForSite - protocols::kQueuedControlShare;
    const size_t queued =
        Queued(route.site, Channel::kControl) + Queued(route.site, Channel::kBulk);
    if (queued + bytes <= most) return OkStatus();
    return ResourceExhausted("{} bytes wait for site {}, which does not read; {} is the most",
                             queued, route.site, most);
  }

  Status Enqueue(const std::string& id, MessageType type, ByteSpan body) {
    Peer& peer = peers_.at(id);
    TG_RETURN_IF_ERROR(CheckRoom(peer.route, body.size()));
    EnqueueFrame(id, peer, protocols::Frame(type, options_.federation, ++peer.sequence, body));
    return OkStatus();
  }

  void EnqueueFrame(const std::string& id, Peer& peer, Bytes frame) {
    peer.queue.emplace_back(std::move(frame));
    peer.queued += peer.queue.back().size();
    FlushPeer(id, peer);
  }

  // A client with a key that nobody knows must be refused, or nothing is served.
  Status SelfTest(const crypto::CurveKeyPair& key) {
    TG_ASSIGN_OR_RETURN(const crypto::CurveKeyPair stranger, crypto::CurveKeyPair::Generate());
    TG_ASSIGN_OR_RETURN(ZmqSocket client, ZmqSocket::Create(context_, ZMQ_DEALER));
    TG_RETURN_IF_ERROR(client.SetBorderOptions(address_));
    TG_RETURN_IF_ERROR(client.SetCurveClient(stranger, key.public_key()));
    TG_ASSIGN_OR_RETURN(
        ZmqSocket monitor,
        client.Monitor(context_, "inproc://tidegate.server.selftest",
                       ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                           ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL));
    std::string address = address_;
    for (const auto& [any, self] :
         {std::pair{"//0.0.0.0:", "//127.0.0.1:"}, std::pair{"//[::]:", "//[::1]:"}}) {
      const size_t at = address.find(any);
      if (at != std::string::npos) address.replace(at, std::string_view(any).size(), self);
    }
    TG_RETURN_IF_ERROR(client.Connect(address));
    const Status status = ExpectRefusal(monitor);
    client.StopMonitor();
    return status;
  }

  static Status ExpectRefusal(const ZmqSocket& monitor) {
    const int64_t deadline = SystemClock().MonotonicMillis() + kSelfTestMillis;
    while (SystemClock().MonotonicMillis() < deadline) {
      zmq_pollitem_t item{monitor.get(), 0, ZMQ_POLLIN, 0};
      zmq_poll(&item, 1, 100);
      MonitorEvent event;
      if (!NextEvent(monitor, &event)) continue;
      if (event.event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH && event.value == kRefusedStatus) {
        return OkStatus();
      }
      return Internal("the allow-list did not refuse an unknown key (event {:#x}, value {})",
                      event.event, event.value);
    }
    return DeadlineExceeded("the allow-list did not answer the self-test within {} ms",
                            kSelfTestMillis);
  }

  // False when there is no message.
  bool ReceiveOne() {
    ZmqFrame id_frame;
    if (!id_frame.Receive(router_)) return false;
    const std::string id(AsText(id_frame.bytes()));
    const auto payload = std::make_shared<ZmqFrame>();
    if (!id_frame.more() || !payload->Receive(router_)) return true;
    const ConnectionId connection = ConnectionOf(payload->descriptor());
    if (payload->more()) {
      ZmqFrame rest;
      do {
        rest.Receive(router_);
      } while (rest.more());
      RefuseConnection(Cause::kFrames, "", connection);
      return true;
    }
    guard_->Delivered(connection);
    const auto parsed = protocols::ParseFrame(payload->bytes(), options_.federation);
    if (!parsed) {
      RefuseConnection(Cause::kFraming, parsed.error().reason, connection);
      return true;
    }
    const auto peer = peers_.find(id);
    if (peer == peers_.end()) {
      if (gone_.contains(id)) return true;
      if (parsed->type == MessageType::kHello) {
        OnHello(id, payload->user(), connection, parsed->body);
      } else {
        RefuseConnection(Cause::kNoHello, MessageTypeName(parsed->type), connection);
      }
      return true;
    }
    if (parsed->type == MessageType::kHello) {
      RefuseConnection(Cause::kWrongHello, "said twice", connection);
      Drop(Route(peer->second.route));
      return true;
    }
    const Route& route = peer->second.route;
    events_->push_back({Event::Kind::kMessage, route.site, route.channel, parsed->type,
                        Body(parsed->body, payload)});
    return true;
  }

  static bool StripeFits(const protocols::Hello& hello) {
    return hello.stripe < (hello.channel == Channel::kBulk ? protocols::kMaxStripes : 1);
  }

  // HELLO of a connection that has none yet. It takes the place of the site's former connection; of
  // all of them when the site's link was started anew.
  void OnHello(const std::string& id, const std::string& user, const ConnectionId& connection,
               ByteSpan body) {
    const auto hello = protocols::Decode<protocols::Hello>(body);
    protocols::FixedName name{};
    std::copy_n(user.begin(), std::min(user.size(), name.size()), name.begin());
    // The list may have changed since the handshake.
    if (!hello || user.empty() || hello->site != name || !StripeFits(*hello) ||
        !zap_->Lists(user)) {
      RefuseConnection(Cause::kWrongHello, "malformed, or for another site than the key's",
                       connection);
      return;
    }
    if (connection.peer.empty()) return;  // ended already
    const Route route{user, hello->channel, hello->stripe};
    if (SessionOf(user) != hello->session) DropAll(user);
    Drop(route);
    const bool was_whole = Whole(user);
    Peer& peer = peers_[id];
    peer.route = route;
    peer.connection = connection;
    peer.session = hello->session;
    routes_[route] = id;
    protocols::Hello answer;
    answer.channel = hello->channel;
    answer.stripe = hello->stripe;
    answer.session = hello->session;
    answer.lease_millis = options_.lease_millis;
    // Whatever else waits for the site: one small message a connection.
    EnqueueFrame(id, peer,
                 protocols::Frame(MessageType::kHello, options_.federation, ++peer.sequence,
                                  protocols::Encode(answer)));
    if (!was_whole && Whole(user)) {
      Tell({Event::Kind::kConnected, user, hello->channel, MessageType::kHello, {}});
    }
  }

  bool Whole(const std::string& site) const {
    return Connected(site, Channel::kControl) && Connected(site, Channel::kBulk);
  }
  // Of the connections that a site has now.
  std::optional<uint64_t> SessionOf(const std::string& site) const {
    const auto it = routes_.lower_bound({site, Channel::kControl, 0});
    if (it == routes_.end() || it->first.site != site) return std::nullopt;
    return peers_.at(it->second).session;
  }

  // In the order of what happened; outside of Poll it waits for the next.
  void Tell(Event event) { (events_ != nullptr ? *events_ : lost_).push_back(std::move(event)); }

  void DropAll(const std::string& site) {
    for (const Channel channel : {Channel::kControl, Channel::kBulk}) {
      for (const std::string& id : IdsOf(site, channel)) Drop(Route(peers_.at(id).route));
    }
  }

  // Cuts and forgets a connection; the others stay until their own end. What was under way on one
  // of several stripes the site's link asks for again (client.h).
  void Drop(const Route& route) {
    const auto it = routes_.find(route);
    if (it == routes_.end()) return;
    const auto peer = peers_.find(it->second);
    guard_->Cut(peer->second.connection);
    if (gone_.size() >= kMaxGone) gone_.clear();
    gone_.insert(it->second);
    peers_.erase(peer);
    routes_.erase(it);
    if (!Connected(route.site, route.channel)) {
      Tell({Event::Kind::kDisconnected, route.site, route.channel, MessageType::kHello, {}});
    }
  }

  void TakeNews() {
    const ConnectionGuard::News news = guard_->Take();
    if (news.cut_for_bytes > 0) Refused(Cause::kBytes, "", news.cut_for_bytes);
    if (news.cut_for_number > 0) Refused(Cause::kNumber, "", news.cut_for_number);
    for (const ConnectionId& ended : news.ended) {
      const auto peer = std::find_if(peers_.begin(), peers_.end(), [&ended](const auto& entry) {
        return entry.second.connection == ended;
      });
      if (peer == peers_.end()) continue;
      Drop(Route(peer->second.route));
    }
  }

  void Flush() {
    waiting_ = false;
    std::vector<std::string> ids;
    for (const auto& [id, peer] : peers_) {
      if (!peer.queue.empty()) ids.push_back(id);
    }
    for (const std::string& id : ids) {
      const auto it = peers_.find(id);
      if (it != peers_.end()) FlushPeer(id, it->second);
    }
  }

  void FlushPeer(const std::string& id, Peer& peer) {
    while (!peer.queue.empty()) {
      if (zmq_send(router_.get(), id.data(), id.size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        if (zmq_errno() == EAGAIN) {
          waiting_ = true;
        } else {
          Drop(Route(peer.route));  // EHOSTUNREACH: it is gone
        }
        return;
      }
      const size_t size = peer.queue.front().size();
      if (!peer.queue.front().Send(router_)) {
        Drop(Route(peer.route));
        return;
      }
      peer.queued -= size;
      peer.queue.pop_front();
    }
  }

  void RefuseConnection(Cause cause, std::string_view detail, const ConnectionId& connection) {
    guard_->Cut(connection);
    Refused(cause, detail, 1);
  }

  // A line a minute for each cause, with what its first case had to say.
  void Refused(Cause cause, std::string_view detail, uint64_t times) {
    refused_ += times;
    Tally& tally = tallies_[static_cast<size_t>(cause)];
    tally.times += times;
    const int64_t now = SystemClock().MonotonicMillis();
    if (tally.logged && now - tally.last < kLogMillis) return;
    LogWarning("peer_refused cause=\"{}\" times={} detail=\"{}\"",
               kCauses[static_cast<size_t>(cause)], tally.times, detail);
    tally = {true, now, 0};
  }

  struct Tally {
    bool logged = false;
    int64_t last = 0;
    uint64_t times = 0;
  };

  ServerOptions options_;
  ZmqContext context_;
  std::unique_ptr<ZapHandler> zap_;
  ZmqSocket router_;
  std::unique_ptr<ConnectionGuard> guard_;
  std::string address_;
  std::map<std::string, Peer> peers_;    // by routing id
  std::map<Route, std::string> routes_;  // to the routing id
  std::set<std::string> gone_;
  std::vector<Event>* events_ = nullptr;  // of the Poll under way
  std::vector<Event> lost_;
  std::array<Tally, std::size(kCauses)> tallies_{};
  uint64_t refused_ = 0, refused_in_test_ = 0;
  bool waiting_ = false;
};

// At its descriptor limit libzmq's accepting thread spins and other parts of the process fail. So
// there is room for all connections, or their cap is less.
Result<size_t> ConnectionCap(size_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return Unexpected(ErrnoStatus("read", "the descriptor limit", errno));
  }
  const rlim_t needed = wanted + kOtherDescriptors;
  if (limit.rlim_cur < needed) {
    limit.rlim_cur = std::min(needed, limit.rlim_max);
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) {
      return Unexpected(ErrnoStatus("raise", "the descriptor limit", errno));
    }
  }
  if (limit.rlim_cur < kLeastConnections + kOtherDescriptors) {
    return ResourceExhausted(
        "this process may have {} descriptors, {} is the least; raise LimitNOFILE or ulimit -n",
        limit.rlim_cur, kLeastConnections + kOtherDescriptors);
  }
  if (limit.rlim_cur >= needed) return wanted;
  const auto cap = static_cast<size_t>(limit.rlim_cur) - kOtherDescriptors;
  LogWarning("connections_limited wanted={} cap={} remedy=\"raise LimitNOFILE to {}\"", wanted, cap,
             needed);
  return cap;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::Bind(const ServerOptions& options,
                                             const crypto::CurveKeyPair& key) {
  ServerOptions capped = options;
  TG_ASSIGN_OR_RETURN(capped.max_connections, ConnectionCap(options.max_connections));
  TG_ASSIGN_OR_RETURN(ZmqContext context, ZmqContext::Create());
  auto server = std::make_unique<ServerImpl>(std::move(capped), std::move(context));
  TG_RETURN_IF_ERROR(server->Open(key));
  return server;
}

}  // namespace tidegate::transport
