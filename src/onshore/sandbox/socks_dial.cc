#include "onshore/sandbox/socks_dial.h"

#include <netinet/in.h>
#include <poll.h>
#include <string.h>

#include <algorithm>
#include <cerrno>

namespace tidegate::onshore {
namespace {

constexpr uint8_t kVersion = 5, kLoginVersion = 1;
constexpr uint8_t kNoLogin = 0, kPassword = 2, kNoneFits = 0xff;  // methods
constexpr uint8_t kConnectCommand = 1;
constexpr uint8_t kIpv4 = 1, kName = 3, kIpv6 = 4;
constexpr size_t kReplyHead = 4;  // version, reply, reserved, kind of address

struct Text {
  int error;
  std::string_view name, remedy;
};
constexpr Text kTexts[kSocksFaultCount] = {
    {0, "none", ""},
    {ECONNREFUSED, "proxy_unreachable", "check proxy of site.toml, and that the proxy runs"},
    {ECONNREFUSED, "proxy_closed",
     "the proxy ended the connection before it answered; its log says why"},
    {EPROTO, "not_socks5",
     "what answers at this address is no SOCKS5 proxy; check proxy of site.toml"},
    {EACCES, "no_method",
     "the proxy wants another login; give proxy_user and proxy_password_file in site.toml, or let "
     "it take a user and a password"},
    {EACCES, "login_refused", "check proxy_user and the file that proxy_password_file names"},
    {EACCES, "forbidden", "let the proxy's rules allow the coordinator's address and port"},
    {ECONNREFUSED, "coordinator_refused",
     "the proxy did not get through to the coordinator; is that running?"},
    {EHOSTUNREACH, "coordinator_unreachable",
     "the proxy finds no way to the coordinator; check its address and the proxy's network"},
    {EOPNOTSUPP, "unsupported",
     "the proxy cannot connect to such an address; with an IPv6 address try one of IPv4, or a name "
     "and proxy_resolves"},
    {ETIMEDOUT, "timed_out", "the proxy took too long; check it, and its way to the coordinator"},
};

const Text& TextOf(SocksFault fault) { return kTexts[static_cast<size_t>(fault)]; }

// What the second byte of a reply means; kNone: granted.
SocksFault FaultOfReply(uint8_t reply) {
  switch (reply) {
    case 0:
      return SocksFault::kNone;
    case 1:  // "general failure": what most say when the target does not answer
    case 5:
      return SocksFault::kTargetRefused;
    case 2:
      return SocksFault::kForbidden;
    case 3:
    case 4:
    case 6:
      return SocksFault::kTargetUnreachable;
    case 7:
    case 8:
      return SocksFault::kUnsupported;
    default:
      return SocksFault::kNotSocks;
  }
}

template <typename Field>
void Append(const Field& field, Bytes* out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&field);
  out->insert(out->end(), bytes, bytes + sizeof(field));
}

}  // namespace

SocksRoute::~SocksRoute() {
  password.resize(password.capacity());  // one that was moved may have left it behind
  ::explicit_bzero(password.data(), password.size());
}

std::string_view SocksFaultName(SocksFault fault) { return TextOf(fault).name; }
std::string_view SocksFaultRemedy(SocksFault fault) { return TextOf(fault).remedy; }

SocksDial::SocksDial(const SocksRoute& route)
    : route_(&route),
      socket_(::socket(route.proxy.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  const socklen_t size =
      route.proxy.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (!socket_.valid() ||
      (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&route.proxy), size) != 0 &&
       errno != EINPROGRESS)) {
    Fail(SocksFault::kProxyUnreachable, errno);
  }
}

SocksDial::SocksDial(Fd socket, const SocksRoute& route)
    : route_(&route), socket_(std::move(socket)) {}

SocksDial::~SocksDial() { ForgetSent(); }

short SocksDial::events() const {
  return step_ == Step::kConnect || sent_ < out_.size() ? POLLOUT : POLLIN;
}

// It may have had the password.
void SocksDial::ForgetSent() {
  if (!out_.empty()) ::explicit_bzero(out_.data(), out_.size());
  out_.clear();
  sent_ = 0;
}

void SocksDial::Fail(SocksFault fault, int error) {
  state_ = State::kFailed;
  fault_ = fault;
  error_ = error != 0 ? error : TextOf(fault).error;
  ForgetSent();
  socket_.reset();
}

SocksDial::State SocksDial::Advance() {
  while (state_ == State::kPending) {
    if (step_ == Step::kConnect) {
      if (!Connected()) break;
      Greet();
    }
    if (!Flush() || !Fill()) break;
    TakeAnswer();
  }
  return state_;
}

bool SocksDial::Connected() {
  pollfd now{socket_.get(), POLLOUT, 0};
  if (::poll(&now, 1, 0) != 1) return false;
  int error = 0;
  socklen_t size = sizeof(error);
  if (::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error != 0) Fail(SocksFault::kProxyUnreachable, error);
  return error == 0;
}

// True when all is sent.
bool SocksDial::Flush() {
  while (sent_ < out_.size()) {
    const ssize_t sent = ::send(socket_.get(), out_.data() + sent_, out_.size() - sent_,
                                MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) {
      if (errno != EAGAIN) Fail(SocksFault::kProxyClosed, 0);
      return false;
    }
    sent_ += static_cast<size_t>(sent);
  }
  ForgetSent();
  return true;
}

// True when there are as many bytes as are wanted; never takes one more.
bool SocksDial::Fill() {
  while (have_ < want_) {
    const ssize_t got = ::recv(socket_.get(), in_.data() + have_, want_ - have_, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      if (got == 0 || errno != EAGAIN) Fail(SocksFault::kProxyClosed, 0);
      return false;
    }
    have_ += static_cast<size_t>(got);
  }
  return true;
}

void SocksDial::Ask(Step step, size_t answer_bytes) {
  step_ = step;
  have_ = 0;
  want_ = answer_bytes;
}

void SocksDial::Greet() {
  out_ = {kVersion, 1, kNoLogin};
  if (!route_->user.empty()) out_ = {kVersion, 2, kNoLogin, kPassword};
  Ask(Step::kMethod, 2);
}

void SocksDial::LogIn() {
  // Room for all at once: growing would leave copies of the password behind.
  out_.reserve(3 + route_->user.size() + route_->password.size());
  out_ = {kLoginVersion};
  for (const std::string* text : {&route_->user, &route_->password}) {
    out_.push_back(static_cast<uint8_t>(text->size()));
    out_.insert(out_.end(), text->begin(), text->end());
  }
  Ask(Step::kLogin, 2);
}

void SocksDial::Request() {
  out_ = {kVersion, kConnectCommand, 0};
  if (!route_->target_name.empty()) {
    out_.push_back(kName);
    out_.push_back(static_cast<uint8_t>(route_->target_name.size()));
    out_.insert(out_.end(), route_->target_name.begin(), route_->target_name.end());
    Append(htons(route_->target_port), &out_);
  } else if (route_->target.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(route_->target);
    out_.push_back(kIpv6);
    Append(v6.sin6_addr, &out_);
    Append(v6.sin6_port, &out_);
  } else {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(route_->target);
    out_.push_back(kIpv4);
    Append(v4.sin_addr, &out_);
    Append(v4.sin_port, &out_);
  }
  Ask(Step::kReply, kReplyHead);
}

void SocksDial::TakeAnswer() {
  if (step_ == Step::kReply) return TakeReply();
  if (in_[0] != (step_ == Step::kMethod ? kVersion : kLoginVersion)) {
    return Fail(SocksFault::kNotSocks, 0);
  }
  if (step_ == Step::kLogin) return in_[1] == 0 ? Request() : Fail(SocksFault::kLogin, 0);
  if (in_[1] == kNoLogin) return Request();
  if (in_[1] == kPassword && !route_->user.empty()) return LogIn();
  Fail(in_[1] == kNoneFits ? SocksFault::kNoMethod : SocksFault::kNotSocks, 0);
}

// The address in it is the proxy's own end: its length is followed, its value is nothing to us.
void SocksDial::TakeReply() {
  if (have_ == kReplyHead) {
    if (in_[0] != kVersion) return Fail(SocksFault::kNotSocks, 0);
    const SocksFault fault = FaultOfReply(in_[1]);
    if (fault != SocksFault::kNone) return Fail(fault, 0);
    if (in_[2] != 0) return Fail(SocksFault::kNotSocks, 0);
    switch (in_[3]) {
      case kIpv4:
        want_ = kReplyHead + sizeof(in_addr) + 2;
        return;
      case kIpv6:
        want_ = kReplyHead + sizeof(in6_addr) + 2;
        return;
      case kName:
        want_ = kReplyHead + 1;
        return;
      default:
        return Fail(SocksFault::kNotSocks, 0);
    }
  }
  if (in_[3] == kName && have_ == kReplyHead + 1) {
    want_ = have_ + in_[kReplyHead] + 2;
    return;
  }
  state_ = State::kGranted;
}

}  // namespace tidegate::onshore
