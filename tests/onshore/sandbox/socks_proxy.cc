#include "tests/onshore/sandbox/socks_proxy.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "onshore/sandbox/address_pin.h"

namespace tidegate::onshore {
namespace {

void Say(const Fd& to, const Bytes& bytes) {
  [[maybe_unused]] const ssize_t n = ::send(to.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

}  // namespace

SocksProxy::SocksProxy(std::string user, std::string password)
    : user_(std::move(user)), password_(std::move(password)) {
  Start();
}

std::shared_ptr<SocksRoute> SocksProxy::Route(uint16_t port) const {
  auto route = std::make_shared<SocksRoute>();
  route->proxy = *ParsePinnedAddress(address());
  route->target = *ParsePinnedAddress("127.0.0.1:" + std::to_string(port));
  route->user = user_;
  route->password = password_;
  return route;
}

void SocksProxy::Start() {
  listener_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port_);
  socklen_t size = sizeof(address);
  if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener_.get(), 32) != 0 ||
      ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    ADD_FAILURE() << "no proxy: " << errno;
    return;
  }
  port_ = ntohs(address.sin_port);
  wake_ = Fd(::eventfd(0, EFD_CLOEXEC));
  stop_ = false;
  thread_ = std::thread([this] { Run(); });
}

void SocksProxy::Stop() {
  if (!thread_.joinable()) return;
  stop_ = true;
  const uint64_t one = 1;
  EXPECT_EQ(::write(wake_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  thread_.join();
  listener_.reset();
}

std::vector<std::string> SocksProxy::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void SocksProxy::Run() {
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
  std::list<Pair> pairs;
  while (!stop_) {
    std::vector<pollfd> fds = {{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    for (const Pair& pair : pairs) {
      fds.push_back({pair.client.get(), POLLIN, 0});
      fds.push_back({pair.target.get(), POLLIN, 0});  // −1 until it is connected
    }
    ::poll(fds.data(), fds.size(), -1);
    size_t at = 2;
    for (Pair& pair : pairs) {
      const bool from_client = fds[at].revents != 0, from_target = fds[at + 1].revents != 0;
      at += 2;
      if (from_client && !pair.target.valid()) {
        Greet(pair);
      } else if (from_client) {
        Move(pair.client, pair.target, pair);
      }
      if (from_target) Move(pair.target, pair.client, pair);
    }
    pairs.remove_if([](const Pair& pair) { return pair.dead; });
    if (fds[1].revents != 0) {
      pairs.emplace_back();
      pairs.back().client = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }
    open_ = static_cast<int>(pairs.size());
  }
  pairs.clear();
  open_ = 0;
}

void SocksProxy::Greet(Pair& pair) {
  uint8_t bytes[600];
  const ssize_t n = ::recv(pair.client.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
  if (n <= 0) {
    pair.dead = n == 0 || errno != EAGAIN;
    return;
  }
  pair.in.insert(pair.in.end(), bytes, bytes + n);
  if (hold_) return;
  if (!pair.greeted && !TakeGreeting(pair)) return;
  if (!user_.empty() && !pair.logged_in && !TakeLogin(pair)) return;
  TakeRequest(pair);
}

// 05 n METHOD…, answered 05 METHOD.
bool SocksProxy::TakeGreeting(Pair& pair) {
  Bytes& in = pair.in;
  if (in.size() < 2 || in.size() < 2u + in[1]) return false;
  const auto end = in.begin() + 2 + in[1];
  const uint8_t method = user_.empty() ? 0 : 2;
  const bool offered = std::find(in.begin() + 2, end, method) != end;
  pair.dead = in[0] != 5 || !offered;
  Say(pair.client, {5, offered ? method : uint8_t{0xff}});
  in.erase(in.begin(), end);
  pair.greeted = !pair.dead;
  return pair.greeted;
}

// 01 n USER m PASSWORD, answered 01 00.
bool SocksProxy::TakeLogin(Pair& pair) {
  Bytes& in = pair.in;
  if (in.size() < 2 || in.size() < 3u + in[1] || in.size() < 3u + in[1] + in[2u + in[1]]) {
    return false;
  }
  const size_t user = in[1], password = in[2 + user];
  const std::string text(in.begin(), in.end());
  pair.logged_in =
      in[0] == 1 && text.substr(2, user) == user_ && text.substr(3 + user, password) == password_;
  Say(pair.client, {1, pair.logged_in ? uint8_t{0} : uint8_t{1}});
  pair.dead = !pair.logged_in;
  in.erase(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(3 + user + password));
  return pair.logged_in;
}

// 05 01 00 KIND ADDRESS PORT, answered 05 REPLY 00 01 0.0.0.0 0.
void SocksProxy::TakeRequest(Pair& pair) {
  const Bytes& in = pair.in;
  if (in.size() < 5) return;
  const size_t size = in[3] == 3 ? 7u + in[4] : 10u;
  if (in.size() < size) return;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::copy_n(in.begin() + static_cast<std::ptrdiff_t>(size) - 2, 2,
              reinterpret_cast<uint8_t*>(&to.sin_port));
  std::string host(in.begin() + 5, in.begin() + static_cast<std::ptrdiff_t>(size) - 2);
  if (in[3] == 1) host = fmt::format("{}.{}.{}.{}", in[4], in[5], in[6], in[7]);
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(fmt::format("{}:{}", host, ntohs(to.sin_port)));
  }
  uint8_t reply = refuse_;
  pair.target = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (reply == 0 &&
      ::connect(pair.target.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) {
    reply = 5;
  }
  // More than the request is a mistake: nothing may be said before the grant.
  pair.dead = reply != 0 || in.size() != size || in[0] != 5 || in[1] != 1;
  granted_ += pair.dead ? 0 : 1;
  Say(pair.client, {5, reply, 0, 1, 0, 0, 0, 0, 0, 0});
}

void SocksProxy::Move(const Fd& from, const Fd& to, Pair& pair) {
  uint8_t bytes[65536];
  const ssize_t n = ::recv(from.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
  if (n == 0 || (n < 0 && errno != EAGAIN)) pair.dead = true;
  for (ssize_t at = 0; at < n;) {
    const ssize_t sent = ::send(to.get(), bytes + at, static_cast<size_t>(n - at), MSG_NOSIGNAL);
    if (sent <= 0) {
      pair.dead = true;
      return;
    }
    at += sent;
  }
}

}  // namespace tidegate::onshore
