// The tap: what goes through it arrives, and all of it is kept.
#include "tests/canary/wire_tap.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

namespace tidegate::canary {
namespace {

constexpr int kMostMillis = 20'000;

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

Fd Dial(uint16_t port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(port);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

class Server {
 public:
  Server() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof(address);
    auto* raw = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(listener_.get(), raw, size), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener_.get(), raw, &size), 0);
    port_ = ntohs(address.sin_port);
  }
  uint16_t port() const { return port_; }
  Fd Accept() const {
    pollfd p{listener_.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&p, 1, kMostMillis), 1) << "nobody dialled";
    return Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }

 private:
  Fd listener_;
  uint16_t port_ = 0;
};

std::string Receive(const Fd& fd, size_t bytes) {
  std::string text;
  char buffer[4096];
  while (text.size() < bytes) {
    pollfd p{fd.get(), POLLIN, 0};
    if (::poll(&p, 1, kMostMillis) != 1) break;
    const ssize_t n = ::recv(fd.get(), buffer, std::min(sizeof(buffer), bytes - text.size()), 0);
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

TEST(WireTap, PassesAndKeepsEveryByteOfBothDirections) {
  const Server server;
  const auto tap = WireTap::Start(server.port());
  ASSERT_TRUE(tap) << tap.error().ToString();
  const Fd site = Dial((*tap)->port());
  const Fd coordinator = server.Accept();
  const std::string out(100'000, 'o'), in(70'000, 'i');
  ASSERT_TRUE(WriteAll(coordinator.get(), AsBytes(in), "the server's end").ok());
  EXPECT_EQ(Receive(site, in.size()), in);
  ASSERT_TRUE(WriteAll(site.get(), AsBytes(out), "the site's end").ok());
  EXPECT_EQ(Receive(coordinator, out.size()), out);
  const auto streams = (*tap)->Captured();
  ASSERT_EQ(streams.size(), 2u);
  EXPECT_EQ(streams[0].name, "connection 0 from the site");
  EXPECT_EQ(AsText(streams[0].bytes), out);
  EXPECT_EQ(streams[1].name, "connection 0 to the site");
  EXPECT_EQ(AsText(streams[1].bytes), in);
}

TEST(WireTap, HoldsWhatComesAfterSoManyBytesUntilItIsLetGo) {
  const Server server;
  const auto tap = WireTap::Start(server.port());
  ASSERT_TRUE(tap) << tap.error().ToString();
  (*tap)->HoldAfter(10);
  const Fd site = Dial((*tap)->port());
  const Fd coordinator = server.Accept();
  ASSERT_TRUE(WriteAll(site.get(), AsBytes("0123456789held"), "the site's end").ok());
  EXPECT_EQ(Receive(coordinator, 10), "0123456789");
  pollfd p{coordinator.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&p, 1, 60), 0) << "it was not held";
  (*tap)->LetGo();
  EXPECT_EQ(Receive(coordinator, 4), "held");
}

TEST(Doorbell, CountsWhoConnects) {
  auto bell = Doorbell::Make();
  ASSERT_TRUE(bell) << bell.error().ToString();
  EXPECT_EQ(bell->Rings(), 0);
  const Fd first = Dial(bell->port()), second = Dial(bell->port());
  EXPECT_EQ(bell->Rings(), 2);
  EXPECT_EQ(bell->Rings(), 0);
}

}  // namespace
}  // namespace tidegate::canary
