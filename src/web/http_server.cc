#include "web/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>

#include "base/clock.h"
#include "base/file.h"

namespace tidegate::web {
namespace {

constexpr int kLookMillis = 100;  // for the server's end
constexpr int64_t kLingerMillis = 500;

thread_local bool t_refuse = false;  // the connection that this thread was given
thread_local bool t_close_after = false;
thread_local int t_peer = -1;  // the socket of the connection that this thread serves

int64_t Now() { return SystemClock().MonotonicMillis(); }

bool Ready(int socket, short events, int64_t millis) {
  pollfd fd{socket, events, 0};
  int ready = 0;
  const int64_t until = Now() + millis;
  do {
    ready = ::poll(&fd, 1, static_cast<int>(std::max<int64_t>(until - Now(), 0)));
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

// False once it has ended the connection. What it says ahead stays to be read.
bool IsThere(int socket) {
  char byte = 0;
  const ssize_t n = ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

void NameOf(const sockaddr_storage& address, std::string& ip, int& port) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
    port = ntohs(v6.sin6_port);
  } else {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    port = ntohs(v4.sin_port);
  }
  ip = text;
}

// One connection. What it has read ahead is kept from one request to the next.
class BoundedStream final : public httplib::Stream {
 public:
  BoundedStream(int socket, const HttpLimits& limits) : socket_(socket), limits_(limits) {}

  void BeginRequest() {
    left_ = limits_.request_bytes;
    until_ = Now() + limits_.request_within.count();
  }
  bool HasMore() const { return at_ < size_; }
  // The request did not come whole: what follows is no request.
  bool broken() const { return broken_; }

  bool is_readable() const override { return HasMore() || Ready(socket_, POLLIN, Left()); }
  bool is_writable() const override {
    return IsThere(socket_) && Ready(socket_, POLLOUT, WriteMillis());
  }
  ssize_t read(char* out, size_t size) override {
    if (left_ == 0) broken_ = true;
    if (!broken_ && !HasMore() && Fill() <= 0) broken_ = true;
    if (broken_) return -1;
    const size_t take = std::min({size, size_ - at_, left_});
    std::copy_n(buffer_.data() + at_, take, out);
    at_ += take;
    left_ -= take;
    return static_cast<ssize_t>(take);
  }
  ssize_t write(const char* data, size_t size) override {
    for (;;) {
      if (!Ready(socket_, POLLOUT, WriteMillis())) return -1;
      const ssize_t n = ::send(socket_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n >= 0 || (errno != EINTR && errno != EAGAIN)) return n;
    }
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    if (::getpeername(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
      NameOf(address, ip, port);
    }
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    if (::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
      NameOf(address, ip, port);
    }
  }
  socket_t socket() const override { return socket_; }

 private:
  int64_t Left() const { return std::max<int64_t>(until_ - Now(), 0); }
  int64_t WriteMillis() const { return limits_.write_within.count(); }
  ssize_t Fill() {
    for (;;) {
      if (Left() == 0 || !Ready(socket_, POLLIN, Left())) return -1;
      const ssize_t n = ::recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      at_ = 0;
      size_ = n > 0 ? static_cast<size_t>(n) : 0;
      return n;
    }
  }

  int socket_;
  const HttpLimits& limits_;
  std::array<char, 4096> buffer_{};
  size_t at_ = 0, size_ = 0;
  size_t left_ = 0;
  bool broken_ = false;
  int64_t until_ = 0;
};

// A peer that is still sending would lose the answer with the connection.
void EndGently(int socket, const HttpLimits& limits) {
  ::shutdown(socket, SHUT_WR);
  char bytes[4096];
  const int64_t until = Now() + kLingerMillis;
  for (size_t left = limits.request_bytes; left > 0 && Ready(socket, POLLIN, until - Now());) {
    const ssize_t n = ::recv(socket, bytes, std::min(sizeof(bytes), left), MSG_DONTWAIT);
    if (n <= 0) break;
    left -= static_cast<size_t>(n);
  }
}

// Of connections that no thread would come to, this one cuts at once.
class BoundedQueue final : public httplib::TaskQueue {
 public:
  explicit BoundedQueue(const HttpLimits& limits)
      : most_(limits.threads + limits.waiting), pool_(limits.threads) {}
  void enqueue(std::function<void()> serve) override {
    if (held_ >= most_) {
      t_refuse = true;
      serve();
      t_refuse = false;
      return;
    }
    ++held_;
    pool_.enqueue([this, serve = std::move(serve)] {
      serve();
      --held_;
    });
  }
  void shutdown() override { pool_.shutdown(); }

 private:
  const size_t most_;
  std::atomic<size_t> held_{0};
  httplib::ThreadPool pool_;
};

}  // namespace

HttpServer::HttpServer(const HttpLimits& limits) : limits_(limits) {
  new_task_queue = [this] { return new BoundedQueue(limits_); };
  set_keep_alive_max_count(limits.requests);
  // For the header that tells it.
  set_keep_alive_timeout(limits.idle_within / std::chrono::seconds(1));
}

// A body that is not read, or whose end is told in two ways, would be taken for the next request.
void HttpServer::SetAdmission(Admit admit) {
  using httplib::Server;
  set_pre_routing_handler(
      [admit = std::move(admit)](const httplib::Request& in, httplib::Response& out) {
        const bool sized = in.has_header("Content-Length");
        const bool chunked = in.has_header("Transfer-Encoding");
        // Many ranges of one answer would be made into one that is as many times as long.
        const bool one = in.ranges.size() <= 1;
        if (!one) out.status = 416;
        const bool admitted = one && admit(in, out);
        const bool whole = admitted && in.method == "POST" && !(sized && chunked);
        if ((sized || chunked) && !whole) {
          t_close_after = true;
          out.set_header("Connection", "close");
        }
        return admitted ? Server::HandlerResponse::Unhandled : Server::HandlerResponse::Handled;
      });
}

bool HttpServer::PeerIsThere() { return t_peer < 0 || IsThere(t_peer); }

bool HttpServer::process_and_close_socket(socket_t socket) {
  const Fd closed(socket);
  if (t_refuse) return false;
  BoundedStream stream(socket, limits_);
  bool good = false;
  for (size_t left = limits_.requests; left > 0; --left) {
    const int64_t until = Now() + limits_.idle_within.count();
    while (!stream.HasMore() && !Ready(socket, POLLIN, kLookMillis)) {
      if (svr_sock_ == INVALID_SOCKET || Now() >= until) return good;
    }
    if (svr_sock_ == INVALID_SOCKET) return good;
    stream.BeginRequest();
    t_close_after = false;
    t_peer = socket;
    bool ended = false;
    good = process_request(stream, left == 1, ended, nullptr);
    t_peer = -1;
    if (t_close_after && !stream.broken()) EndGently(socket, limits_);
    if (!good || ended || t_close_after || stream.broken()) break;
  }
  ::shutdown(socket, SHUT_RDWR);
  return good;
}

}  // namespace tidegate::web
