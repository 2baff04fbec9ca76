// A server on loopback with one enrolled site, "north", and what tests do to it.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <functional>

#include "base/clock.h"
#include "base/file.h"
#include "transport/client.h"
#include "transport/server.h"

namespace tidegate::transport {

using protocols::Channel;
using protocols::MessageType;

inline protocols::Id16 Federation() {
  protocols::Id16 id{};
  id[0] = 5;
  return id;
}

inline CurveKey PublicOf(const crypto::CurveKeyPair& pair) {
  CurveKey key;
  std::copy(pair.public_key().begin(), pair.public_key().end(), key.begin());
  return key;
}

inline long ResidentKb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::stol(line.substr(6));
  }
  return 0;
}

inline int PortOf(const std::string& address) {
  return std::stoi(address.substr(address.rfind(':') + 1));
}

inline sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

inline Fd DialPort(int port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in to = Loopback(port);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  return fd;
}

// Whether the other side has ended the connection; what it said before is not of interest.
inline bool Ended(const Fd& fd) {
  char bytes[4096];
  for (;;) {
    const ssize_t n = ::recv(fd.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n == 0) return true;
    if (n < 0) return errno != EAGAIN;
  }
}

class WireTest : public testing::Test {
 protected:
  static constexpr size_t kCap = 64;
  WireTest() {
    ServerOptions options;
    options.address = "tcp://127.0.0.1:*";
    options.federation = Federation();
    options.sites = {{"north", PublicOf(north_)}};
    options.max_connections = kCap;
    options.lease_millis = 1234;
    auto server = Server::Bind(options, key_);
    EXPECT_TRUE(server.has_value()) << server.error().ToString();
    server_ = std::move(*server);
  }

  std::unique_ptr<Client> Connect(const crypto::CurveKeyPair& key, const std::string& site,
                                  bool wrong_server = false) {
    ClientOptions options;
    options.address = server_->address();
    options.server_key = PublicOf(wrong_server ? other_ : key_);
    options.site = site;
    options.federation = Federation();
    return std::move(*Client::Connect(options, key));
  }
  // Both sides poll until `done` or the time is over.
  bool Until(Client* client, const std::function<bool()>& done, int millis = 5000) {
    const int64_t end = SystemClock().MonotonicMillis() + millis;
    while (!done() && SystemClock().MonotonicMillis() < end) {
      EXPECT_TRUE(server_->Poll(5, {}, &at_server_).ok());
      EXPECT_TRUE(client == nullptr || client->Poll(5, {}, &at_client_).ok());
    }
    return done();
  }
  bool UntilConnected(Client& client, int millis = 5000) {
    return Until(
        &client, [&] { return client.connected(); }, millis);
  }
  // A plain TCP connection to the server's port.
  Fd Dial() const { return DialPort(PortOf(server_->address())); }
  // The honest peer is served: a message there and one back.
  void ExpectServed(Client& client) {
    at_server_.clear();
    at_client_.clear();
    ASSERT_TRUE(client.Send(Channel::kControl, MessageType::kLease, Bytes{1, 2}).ok());
    ASSERT_TRUE(Until(&client, [&] {
      return !at_server_.empty() && at_server_.back().type == MessageType::kLease;
    }));
    ASSERT_TRUE(
        server_->Send("north", Channel::kBulk, MessageType::kChunk, Bytes(200'000, 3)).ok());
    ASSERT_TRUE(Until(&client, [&] { return !at_client_.empty(); }));
    EXPECT_EQ(at_client_.back().body.size(), 200'000u);
  }

  crypto::CurveKeyPair key_ = *crypto::CurveKeyPair::Generate();
  crypto::CurveKeyPair north_ = *crypto::CurveKeyPair::Generate();
  crypto::CurveKeyPair other_ = *crypto::CurveKeyPair::Generate();
  std::unique_ptr<Server> server_;
  std::vector<Server::Event> at_server_;
  std::vector<Client::Event> at_client_;
};

}  // namespace tidegate::transport
