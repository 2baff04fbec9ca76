// What a peer may not do to a server, byte by byte.
#include "web/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <future>
#include <thread>

#include "base/file.h"

namespace tidegate::web {
namespace {

constexpr int kPatience = 20;  // seconds until a test gives up

class HttpServerTest : public ::testing::Test {
 protected:
  ~HttpServerTest() override {
    if (server_) server_->stop();
    if (thread_.joinable()) thread_.join();
  }
  void Serve(const HttpLimits& limits) {
    server_ = std::make_unique<HttpServer>(limits);
    server_->SetAdmission([](const httplib::Request& in, httplib::Response& out) {
      if (in.has_header("Key")) return true;
      out.status = 401;
      return false;
    });
    const auto answer = [](const httplib::Request& in, httplib::Response& out) {
      out.set_content(std::to_string(in.body.size()), "text/plain");
    };
    server_->Get("/", answer);
    server_->Post("/", answer);
    port_ = server_->bind_to_any_port("127.0.0.1");
    ASSERT_GT(port_, 0);
    thread_ = std::thread([this] { server_->listen_after_bind(); });
    while (!server_->is_running()) std::this_thread::yield();
  }
  Fd Dial() const {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval patience{kPatience, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  // False once the server has cut the connection.
  static bool Say(const Fd& fd, std::string_view text) {
    return ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(text.size());
  }
  // All that comes until the server ends the connection; nothing when it does not.
  static std::optional<std::string> Rest(const Fd& fd) {
    std::string all;
    char bytes[4096];
    for (;;) {
      const ssize_t n = ::recv(fd.get(), bytes, sizeof(bytes), 0);
      if (n < 0 && errno == EAGAIN) return std::nullopt;
      if (n <= 0) return all;
      all.append(bytes, static_cast<size_t>(n));
    }
  }
  static size_t Answers(const std::string& text) {
    size_t count = 0;
    for (size_t at = 0; (at = text.find("HTTP/1.1 ", at)) != std::string::npos; ++at) ++count;
    return count;
  }

  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
  int port_ = 0;
};

TEST_F(HttpServerTest, AnswersSeveralRequestsOfAConnectionAlsoSaidAtOnce) {
  Serve({});
  const Fd fd = Dial();
  const std::string post = "POST / HTTP/1.1\r\nKey: k\r\nContent-Length: 3\r\n\r\nabc";
  const std::string last = "GET / HTTP/1.1\r\nKey: k\r\nConnection: close\r\n\r\n";
  EXPECT_TRUE(Say(fd, post + post + last));
  const auto all = Rest(fd);
  ASSERT_TRUE(all);
  EXPECT_EQ(Answers(*all), 3u) << *all;
  EXPECT_EQ(all->find("401"), std::string::npos);
}

TEST_F(HttpServerTest, CutsHeadersAndChunksThatHaveNoEnd) {
  Serve({});
  const std::string line = "X: " + std::string(4000, 'x') + "\r\n";
  const std::string chunk = "fa0\r\n" + std::string(4000, 'x') + "\r\n";
  const std::pair<std::string, std::string> endless[] = {
      {"GET / HTTP/1.1\r\nKey: k\r\n", line},
      {"POST / HTTP/1.1\r\nKey: k\r\nTransfer-Encoding: chunked\r\n\r\n", chunk}};
  for (const auto& [head, piece] : endless) {
    const Fd fd = Dial();
    ASSERT_TRUE(Say(fd, head));
    size_t said = 0;
    while (said < (64u << 20) && Say(fd, piece)) said += piece.size();
    EXPECT_LT(said, 64u << 20) << head;
  }
}

TEST_F(HttpServerTest, CutsARequestThatTakesItsTime) {
  HttpLimits limits;
  limits.request_within = std::chrono::milliseconds(50);
  Serve(limits);
  const Fd fd = Dial();
  ASSERT_TRUE(Say(fd, "GET / HTTP/1.1\r\nKey"));
  const auto all = Rest(fd);
  ASSERT_TRUE(all) << "not in its time";
  EXPECT_LE(Answers(*all), 1u);
}

// Behind a proxy the next request on the connection is somebody else's.
TEST_F(HttpServerTest, ABodyThatWasNotReadIsNoRequest) {
  Serve({});
  const std::string inner = "GET / HTTP/1.1\r\nKey: k\r\n\r\n";
  const std::string size = "Content-Length: " + std::to_string(inner.size()) + "\r\n";
  for (const std::string& head :
       {"POST / HTTP/1.1\r\n" + size, "GET / HTTP/1.1\r\nKey: k\r\n" + size,
        "POST / HTTP/1.1\r\nKey: k\r\nTransfer-Encoding: chunked\r\n" + size}) {
    const Fd fd = Dial();
    // In two pieces, each of which may be read by itself.
    ASSERT_TRUE(Say(fd, head + "\r\n"));
    Say(fd, (head.find("chunked") == std::string::npos ? "" : "0\r\n\r\n") + inner);
    const auto all = Rest(fd);
    ASSERT_TRUE(all) << head;
    EXPECT_EQ(Answers(*all), 1u) << head << *all;
  }
}

TEST_F(HttpServerTest, ManyRangesAreNotMadeIntoALongAnswer) {
  Serve({});
  std::string ranges = "0-";
  for (int i = 0; i < 1000; ++i) ranges += ",0-";
  for (const auto& [range, status] : {std::pair<std::string, const char*>{"0-", " 206 "},
                                      std::pair<std::string, const char*>{ranges, " 416 "}}) {
    const Fd fd = Dial();
    ASSERT_TRUE(Say(
        fd, "GET / HTTP/1.1\r\nKey: k\r\nConnection: close\r\nRange: bytes=" + range + "\r\n\r\n"));
    const auto all = Rest(fd);
    ASSERT_TRUE(all);
    EXPECT_NE(all->find(status), std::string::npos) << all->substr(0, 200);
    EXPECT_LT(all->size(), 1000u);
  }
}

TEST_F(HttpServerTest, AHandlerIsToldThatItsPeerIsGone) {
  Serve({});
  std::promise<bool> there_at_first, gone;
  server_->Get("/wait", [&](const httplib::Request&, httplib::Response&) {
    there_at_first.set_value(HttpServer::PeerIsThere());
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(kPatience);
    while (HttpServer::PeerIsThere() && std::chrono::steady_clock::now() < until) {
      std::this_thread::yield();
    }
    gone.set_value(!HttpServer::PeerIsThere());
  });
  Fd fd = Dial();
  ASSERT_TRUE(Say(fd, "GET /wait HTTP/1.1\r\nKey: k\r\n\r\n"));
  EXPECT_TRUE(there_at_first.get_future().get());
  fd.reset();
  EXPECT_TRUE(gone.get_future().get());
}

TEST_F(HttpServerTest, CutsConnectionsThatNoThreadWouldComeTo) {
  HttpLimits limits;
  limits.threads = limits.waiting = 1;
  Serve(limits);
  const Fd served = Dial();
  ASSERT_TRUE(Say(served, "GET / HTTP/1.1\r\nKey"));
  const Fd waits = Dial();
  const Fd over = Dial();
  const auto cut = Rest(over);
  ASSERT_TRUE(cut);
  EXPECT_EQ(*cut, "");
  ASSERT_TRUE(Say(served, ": k\r\nConnection: close\r\n\r\n"));
  EXPECT_EQ(Answers(Rest(served).value_or("")), 1u);
  ASSERT_TRUE(Say(waits, "GET / HTTP/1.1\r\nKey: k\r\nConnection: close\r\n\r\n"));
  EXPECT_EQ(Answers(Rest(waits).value_or("")), 1u);
}

}  // namespace
}  // namespace tidegate::web
