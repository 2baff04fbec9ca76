#include "transport/zap.h"

#include <algorithm>
#include <csignal>
#include <vector>

namespace tidegate::transport {
namespace {

constexpr const char* kZapEndpoint = "inproc://zeromq.zap.01";
constexpr const char* kStopEndpoint = "inproc://tidegate.zap.stop";

void Send(const ZmqSocket& socket, ByteSpan bytes, bool more) {
  zmq_send(socket.get(), bytes.data(), bytes.size(), more ? ZMQ_SNDMORE : 0);
}

}  // namespace

Result<std::unique_ptr<ZapHandler>> ZapHandler::Start(const ZmqContext& context) {
  std::unique_ptr<ZapHandler> zap(new ZapHandler);
  TG_ASSIGN_OR_RETURN(zap->socket_, ZmqSocket::Create(context, ZMQ_REP));
  TG_RETURN_IF_ERROR(zap->socket_.SetInt(ZMQ_LINGER, 0, "set LINGER"));
  TG_RETURN_IF_ERROR(zap->socket_.Bind(kZapEndpoint));
  TG_ASSIGN_OR_RETURN(zap->stop_in_, ZmqSocket::Create(context, ZMQ_PAIR));
  TG_RETURN_IF_ERROR(zap->stop_in_.Bind(kStopEndpoint));
  TG_ASSIGN_OR_RETURN(zap->stop_out_, ZmqSocket::Create(context, ZMQ_PAIR));
  TG_RETURN_IF_ERROR(zap->stop_out_.SetInt(ZMQ_LINGER, 0, "set LINGER"));
  TG_RETURN_IF_ERROR(zap->stop_out_.Connect(kStopEndpoint));
  zap->thread_ = std::thread([self = zap.get()] { self->Serve(); });
  return zap;
}

ZapHandler::~ZapHandler() {
  if (!thread_.joinable()) return;
  zmq_send(stop_out_.get(), "", 0, 0);
  thread_.join();
}

void ZapHandler::Allow(const std::string& site, const CurveKey& key) {
  const std::lock_guard lock(mutex_);
  keys_[key] = site;
}

void ZapHandler::Revoke(const std::string& site) {
  const std::lock_guard lock(mutex_);
  std::erase_if(keys_, [&site](const auto& entry) { return entry.second == site; });
}

bool ZapHandler::Lists(const std::string& site) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(keys_.begin(), keys_.end(),
                     [&site](const auto& entry) { return entry.second == site; });
}

uint64_t ZapHandler::refused() const {
  const std::lock_guard lock(mutex_);
  return refused_;
}

std::string ZapHandler::SiteOf(ByteSpan key) const {
  CurveKey array;
  if (key.size() != array.size()) return "";
  std::copy(key.begin(), key.end(), array.begin());
  const auto it = keys_.find(array);
  return it == keys_.end() ? "" : it->second;
}

// Frames of a question: version, request id, domain, address, identity, mechanism, credentials.
void ZapHandler::Serve() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  for (;;) {
    zmq_pollitem_t items[2] = {{socket_.get(), 0, ZMQ_POLLIN, 0},
                               {stop_in_.get(), 0, ZMQ_POLLIN, 0}};
    if (zmq_poll(items, 2, -1) < 0) return;
    if (items[1].revents != 0) return;
    std::vector<Bytes> frames;
    ZmqFrame frame;
    while (frame.Receive(socket_)) {
      frames.emplace_back(frame.bytes().begin(), frame.bytes().end());
      if (!frame.more()) break;
    }
    if (frames.size() < 2) continue;
    std::string site;
    {
      const std::lock_guard lock(mutex_);
      const bool curve =
          frames.size() == 7 && AsText(frames[0]) == "1.0" && AsText(frames[5]) == "CURVE";
      if (curve) site = SiteOf(frames[6]);
      if (site.empty()) ++refused_;
    }
    Send(socket_, AsBytes("1.0"), true);
    Send(socket_, frames[1], true);
    Send(socket_, AsBytes(site.empty() ? "400" : "200"), true);
    Send(socket_, AsBytes(site.empty() ? "not enrolled" : "OK"), true);
    Send(socket_, AsBytes(site), true);
    Send(socket_, {}, false);
  }
}

}  // namespace tidegate::transport
