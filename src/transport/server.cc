#include "transport/server.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>

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
constexpr int kGuardMillis = 100;
constexpr int kSelfTestMillis = 5000;
constexpr int64_t kLogMillis = 60'000;
constexpr int kMessagesAPoll = 256;

Channel OtherOf(Channel channel) {
  return channel == Channel::kControl ? Channel::kBulk : Channel::kControl;
}

class ServerImpl final : public Server {
 public:
  ServerImpl(ServerOptions options, ZmqContext context)
      : options_(std::move(options)), context_(std::move(context)) {}

  Status Open(const crypto::CurveKeyPair& key) {
    TG_ASSIGN_OR_RETURN(zap_, ZapHandler::Start(context_));
    for (const auto& [site, curve] : options_.sites) zap_->Allow(site, curve);
    TG_ASSIGN_OR_RETURN(router_, ZmqSocket::Create(context_, ZMQ_ROUTER));
    TG_RETURN_IF_ERROR(router_.SetBorderOptions());
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
    guard_ = std::make_unique<ConnectionGuard>(std::move(monitor), options_.max_connections);
    TG_RETURN_IF_ERROR(router_.Bind(options_.address));
    char endpoint[256];
    size_t size = sizeof(endpoint);
    if (zmq_getsockopt(router_.get(), ZMQ_LAST_ENDPOINT, endpoint, &size) != 0) {
      return ZmqStatus("read the bound address");
    }
    address_ = endpoint;
    return SelfTest(key);
  }

  Status Poll(int timeout_millis, std::span<pollfd> extra, std::vector<Event>* events) override {
    Flush();
    std::vector<zmq_pollitem_t> items = {{router_.get(), 0, ZMQ_POLLIN, 0},
                                         {guard_->monitor(), 0, ZMQ_POLLIN, 0}};
    for (const pollfd& p : extra) items.push_back({nullptr, p.fd, ZmqEvents(p.events), 0});
    int timeout = timeout_millis < 0 ? kGuardMillis : std::min(timeout_millis, kGuardMillis);
    if (waiting_) timeout = std::min(timeout, 2);
    if (zmq_poll(items.data(), static_cast<int>(items.size()), timeout) < 0 && errno != EINTR) {
      return ZmqStatus("poll");
    }
    for (size_t i = 0; i < extra.size(); ++i) {
      const short r = items[2 + i].revents;
      extra[i].revents =
          static_cast<short>(((r & ZMQ_POLLIN) ? POLLIN : 0) | ((r & ZMQ_POLLOUT) ? POLLOUT : 0) |
                             ((r & ZMQ_POLLERR) ? POLLERR : 0));
    }
    if (const int cut = guard_->Check(); cut > 0) Refused("too many bytes or connections", cut);
    for (int i = 0; i < kMessagesAPoll; ++i) {
      if (!ReceiveOne(events)) break;
    }
    Flush();
    events->insert(events->end(), std::make_move_iterator(lost_.begin()),
                   std::make_move_iterator(lost_.end()));
    lost_.clear();
    return OkStatus();
  }

  Status Send(const std::string& site, Channel channel, MessageType type, ByteSpan body) override {
    const auto it = routes_.find({site, channel});
    if (it == routes_.end()) return Unavailable("site {} is not connected", site);
    Peer& peer = peers_[it->second];
    if (peer.queued + body.size() > kMaxQueuedBytes) {
      return ResourceExhausted("more than {} bytes wait for site {}", kMaxQueuedBytes, site);
    }
    peer.queue.push_back(protocols::Frame(type, options_.federation, ++peer.sequence, body));
    peer.queued += peer.queue.back().size();
    FlushPeer(it->second, peer);
    return OkStatus();
  }

  size_t Queued(const std::string& site, Channel channel) const override {
    const auto it = routes_.find({site, channel});
    return it == routes_.end() ? 0 : peers_.at(it->second).queued;
  }
  bool Connected(const std::string& site, Channel channel) const override {
    return routes_.contains({site, channel});
  }
  void Allow(const std::string& site, const CurveKey& key) override { zap_->Allow(site, key); }
  void Revoke(const std::string& site) override {
    zap_->Revoke(site);
    for (auto& [id, peer] : peers_) {
      if (peer.site == site) guard_->Cut(peer.descriptor);
    }
    for (const Channel channel : {Channel::kControl, Channel::kBulk}) Drop(site, channel);
  }
  const std::string& address() const override { return address_; }
  uint64_t refused() const override { return refused_ + zap_->refused(); }

 private:
  struct Peer {
    std::string site;
    Channel channel = Channel::kControl;
    int descriptor = -1;
    uint64_t sequence = 0;
    std::deque<Bytes> queue;
    size_t queued = 0;
  };

  static short ZmqEvents(short events) {
    return static_cast<short>(((events & POLLIN) ? ZMQ_POLLIN : 0) |
                              ((events & POLLOUT) ? ZMQ_POLLOUT : 0));
  }

  // A client with a key that nobody knows must be refused, or nothing is served.
  Status SelfTest(const crypto::CurveKeyPair& key) {
    TG_ASSIGN_OR_RETURN(const crypto::CurveKeyPair stranger, crypto::CurveKeyPair::Generate());
    TG_ASSIGN_OR_RETURN(ZmqSocket client, ZmqSocket::Create(context_, ZMQ_DEALER));
    TG_RETURN_IF_ERROR(client.SetBorderOptions());
    TG_RETURN_IF_ERROR(client.SetCurveClient(stranger, key.public_key()));
    TG_ASSIGN_OR_RETURN(
        ZmqSocket monitor,
        client.Monitor(context_, "inproc://tidegate.server.selftest",
                       ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                           ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL));
    std::string address = address_;
    if (const size_t any = address.find("0.0.0.0"); any != std::string::npos) {
      address.replace(any, 7, "127.0.0.1");
    }
    TG_RETURN_IF_ERROR(client.Connect(address));
    const int64_t deadline = SystemClock().MonotonicMillis() + kSelfTestMillis;
    while (SystemClock().MonotonicMillis() < deadline) {
      zmq_pollitem_t item{monitor.get(), 0, ZMQ_POLLIN, 0};
      zmq_poll(&item, 1, 100);
      MonitorEvent event;
      if (!NextEvent(monitor, &event)) continue;
      if (event.event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        return Internal("the allow-list let an unknown key in; the port is closed again");
      }
      return OkStatus();
    }
    return DeadlineExceeded("the allow-list did not answer the self-test within {} ms",
                            kSelfTestMillis);
  }

  bool ReceiveOne(std::vector<Event>* events) {
    ZmqFrame id_frame;
    if (!id_frame.Receive(router_)) return false;
    const std::string id(AsText(id_frame.bytes()));
    ZmqFrame payload;
    if (!id_frame.more() || !payload.Receive(router_)) return true;
    const int descriptor = payload.descriptor();
    if (payload.more()) {
      ZmqFrame rest;
      do {
        rest.Receive(router_);
      } while (rest.more());
      guard_->Cut(descriptor);
      Refused("a message of several frames", 1);
      return true;
    }
    guard_->Delivered(descriptor);
    const auto parsed = protocols::ParseFrame(payload.bytes(), options_.federation);
    if (!parsed) {
      guard_->Cut(descriptor);
      Refused(parsed.error().reason, 1);
      return true;
    }
    if (parsed->type == MessageType::kHello) {
      OnHello(id, payload.user(), descriptor, parsed->body, events);
      return true;
    }
    const auto peer = peers_.find(id);
    if (peer == peers_.end()) {
      Refused("a message before HELLO", 1);
      return true;
    }
    events->push_back({Event::Kind::kMessage, peer->second.site, peer->second.channel, parsed->type,
                       Bytes(parsed->body.begin(), parsed->body.end())});
    return true;
  }

  void OnHello(const std::string& id, const std::string& user, int descriptor, ByteSpan body,
               std::vector<Event>* events) {
    const auto hello = protocols::Decode<protocols::Hello>(body);
    protocols::FixedName name{};
    std::copy_n(user.begin(), std::min(user.size(), name.size()), name.begin());
    if (!hello || user.empty() || hello->site != name) {
      guard_->Cut(descriptor);
      Refused("a HELLO for another site than the connection's key", 1);
      return;
    }
    Drop(user, hello->channel);
    Peer& peer = peers_[id];
    peer.site = user;
    peer.channel = hello->channel;
    peer.descriptor = descriptor;
    routes_[{user, hello->channel}] = id;
    protocols::Hello answer;
    answer.channel = hello->channel;
    answer.session = hello->session;
    answer.lease_millis = options_.lease_millis;
    const Status sent = Send(user, hello->channel, MessageType::kHello, protocols::Encode(answer));
    if (!sent.ok()) LogWarning("hello_not_answered site={}", user);
    if (routes_.contains({user, OtherOf(hello->channel)})) {
      events->push_back({Event::Kind::kConnected, user, hello->channel, MessageType::kHello, {}});
    }
  }

  // Forgets a connection; the other channel's stays until its own end.
  void Drop(const std::string& site, Channel channel) {
    const auto it = routes_.find({site, channel});
    if (it == routes_.end()) return;
    peers_.erase(it->second);
    routes_.erase(it);
    lost_.push_back({Event::Kind::kDisconnected, site, channel, MessageType::kHello, {}});
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
      const Bytes& frame = peer.queue.front();
      if (zmq_send(router_.get(), id.data(), id.size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        if (zmq_errno() == EAGAIN) {
          waiting_ = true;
        } else {
          Drop(peer.site, peer.channel);  // EHOSTUNREACH: it is gone
        }
        return;
      }
      if (zmq_send(router_.get(), frame.data(), frame.size(), ZMQ_DONTWAIT) < 0) {
        Drop(peer.site, peer.channel);
        return;
      }
      peer.queued -= frame.size();
      peer.queue.pop_front();
    }
  }

  void Refused(const std::string& cause, int n) {
    refused_ += static_cast<uint64_t>(n);
    const int64_t now = SystemClock().MonotonicMillis();
    auto& [last, count] = causes_[cause];
    ++count;
    if (last != 0 && now - last < kLogMillis) return;
    LogWarning("peer_refused cause=\"{}\" times={}", cause, count);
    last = now;
    count = 0;
    if (causes_.size() > 64) causes_.clear();
  }

  ServerOptions options_;
  ZmqContext context_;
  std::unique_ptr<ZapHandler> zap_;
  ZmqSocket router_;
  std::unique_ptr<ConnectionGuard> guard_;
  std::string address_;
  std::map<std::string, Peer> peers_;  // by routing id
  std::map<std::pair<std::string, Channel>, std::string> routes_;
  std::vector<Event> lost_;
  std::map<std::string, std::pair<int64_t, uint64_t>> causes_;
  uint64_t refused_ = 0;
  bool waiting_ = false;
};

}  // namespace

Result<std::unique_ptr<Server>> Server::Bind(const ServerOptions& options,
                                             const crypto::CurveKeyPair& key) {
  TG_ASSIGN_OR_RETURN(ZmqContext context, ZmqContext::Create());
  zmq_ctx_set(context.get(), ZMQ_MAX_SOCKETS, static_cast<int>(options.max_connections) + 64);
  auto server = std::make_unique<ServerImpl>(options, std::move(context));
  TG_RETURN_IF_ERROR(server->Open(key));
  return server;
}

}  // namespace tidegate::transport
