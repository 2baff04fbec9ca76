#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <csignal>
#include <fstream>
#include <functional>

#include "base/clock.h"
#include "base/file.h"
#include "transport/client.h"
#include "transport/server.h"

namespace tidegate::transport {
namespace {

using protocols::Channel;
using protocols::MessageType;

protocols::Id16 Federation() {
  protocols::Id16 id{};
  id[0] = 5;
  return id;
}

CurveKey PublicOf(const crypto::CurveKeyPair& pair) {
  CurveKey key;
  std::copy(pair.public_key().begin(), pair.public_key().end(), key.begin());
  return key;
}

long ResidentKb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::stol(line.substr(6));
  }
  return 0;
}

class WireTest : public testing::Test {
 protected:
  WireTest() {
    ServerOptions options;
    options.address = "tcp://127.0.0.1:*";
    options.federation = Federation();
    options.sites = {{"north", PublicOf(north_)}};
    options.max_connections = 64;
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
  // A plain TCP connection to the server's port.
  Fd Dial() const {
    const std::string& address = server_->address();
    const int port = std::stoi(address.substr(address.rfind(':') + 1));
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    return fd;
  }
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

TEST_F(WireTest, AnEnrolledSiteIsServedOnBothChannels) {
  auto client = Connect(north_, "north");
  ASSERT_TRUE(Until(client.get(), [&] { return client->connected(); }));
  ASSERT_FALSE(at_server_.empty());
  EXPECT_EQ(at_server_.back().kind, Server::Event::Kind::kConnected);
  EXPECT_EQ(at_server_.back().site, "north");
  ExpectServed(*client);
}

TEST_F(WireTest, UnknownKeysWrongServersAndOtherNamesAreNot) {
  auto stranger = Connect(other_, "north");
  EXPECT_FALSE(Until(
      stranger.get(), [&] { return stranger->connected(); }, 400));
  auto misled = Connect(north_, "north", true);
  EXPECT_FALSE(Until(
      misled.get(), [&] { return misled->connected(); }, 400));
  auto liar = Connect(north_, "south");
  EXPECT_FALSE(Until(
      liar.get(), [&] { return liar->connected(); }, 400));
  EXPECT_GT(server_->refused(), 0u);
  for (const auto& event : at_server_) {
    EXPECT_NE(event.kind, Server::Event::Kind::kMessage);
    EXPECT_NE(event.kind, Server::Event::Kind::kConnected);
  }
}

TEST_F(WireTest, RevocationCutsALiveConnectionAndTheListIsLive) {
  auto client = Connect(north_, "north");
  ASSERT_TRUE(Until(client.get(), [&] { return client->connected(); }));
  server_->Revoke("north");
  EXPECT_FALSE(server_->Connected("north", Channel::kControl));
  ASSERT_TRUE(Until(client.get(), [&] { return !client->connected(); }));
  EXPECT_FALSE(Until(
      client.get(), [&] { return client->connected(); }, 500));
  server_->Allow("north", PublicOf(north_));
  client = Connect(north_, "north");
  EXPECT_TRUE(Until(client.get(), [&] { return client->connected(); }));
}

TEST_F(WireTest, AReconnectIsNoticedOnBothSides) {
  auto client = Connect(north_, "north");
  ASSERT_TRUE(Until(client.get(), [&] { return client->connected(); }));
  client.reset();
  client = Connect(north_, "north");
  at_server_.clear();
  ASSERT_TRUE(Until(client.get(), [&] { return client->connected(); }));
  ExpectServed(*client);
}

// What libzmq 4.3.4 does badly by itself: see the settings in transport/socket.h.
TEST_F(WireTest, HostilePeersCostLittleAndTheHonestOneIsServed) {
  auto client = Connect(north_, "north");
  ASSERT_TRUE(Until(client.get(), [&] { return client->connected(); }));
  const long before = ResidentKb();
  // Garbage, a greeting with an 8 GiB frame, silence: before any authentication.
  std::vector<Fd> fds;
  const Bytes greeting = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1, 'C', 'U', 'R', 'V', 'E'};
  for (int i = 0; i < 60; ++i) {
    fds.push_back(Dial());
    Bytes bytes = i % 3 == 0 ? Bytes(2000, 0xee) : i % 3 == 1 ? greeting : Bytes();
    if (i % 3 == 1) {
      Bytes whole(64 + 9 + 100'000, 1);
      std::copy(bytes.begin(), bytes.end(), whole.begin());
      const Bytes huge = {2, 0, 0, 0, 2, 0, 0, 0, 0};  // a long frame of 8 GiB
      std::copy(huge.begin(), huge.end(), whole.begin() + 64);
      bytes = std::move(whole);
    }
    [[maybe_unused]] const ssize_t n =
        ::send(fds.back().get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ASSERT_TRUE(server_->Poll(0, {}, &at_server_).ok());
  }
  ExpectServed(*client);
  EXPECT_LT(ResidentKb() - before, 64 * 1024);
}

TEST_F(WireTest, MoreConnectionsThanTheCapAreCut) {
  auto client = Connect(north_, "north");
  ASSERT_TRUE(Until(client.get(), [&] { return client->connected(); }));
  std::vector<Fd> fds;
  for (int i = 0; i < 120; ++i) fds.push_back(Dial());
  Until(
      client.get(), [] { return false; }, 300);
  ExpectServed(*client);
  int closed = 0;
  for (const Fd& fd : fds) {
    char byte;
    // The greeting may come first; the end of the stream is what counts.
    for (ssize_t n; (n = ::recv(fd.get(), &byte, 1, MSG_DONTWAIT)) >= 0;) {
      if (n == 0) {
        ++closed;
        break;
      }
    }
  }
  EXPECT_GE(closed, 120 - 64);
}

// The attacker of the test below: sends one message of many frames, as fast as it is taken.
[[noreturn]] void SendEndlessMultipart(int in) {
  std::string text;
  for (char c; ::read(in, &c, 1) == 1 && c != '\n';) text.push_back(c);
  const std::string address = text.substr(0, text.find(' '));
  const Bytes keys = *FromHex(text.substr(text.find(' ') + 1));
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_DEALER);
  zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, keys.data(), 32);
  zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, keys.data() + 32, 32);
  zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, keys.data() + 64, 32);
  if (zmq_connect(socket, address.c_str()) != 0) ::_exit(1);
  const Bytes part(500'000, 1);
  for (int i = 0; i < 600; ++i) zmq_send(socket, part.data(), part.size(), ZMQ_SNDMORE);
  zmq_send(socket, part.data(), part.size(), 0);
  ::sleep(20);
  ::_exit(0);
}

// An enrolled peer gone bad: a multipart message escapes MAXMSGSIZE and RCVHWM (300 MB here).
TEST(HostileSite, AnEndlessMultipartMessageIsCut) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const pid_t attacker = ::fork();
  if (attacker == 0) SendEndlessMultipart(fds[0]);
  const auto key = *crypto::CurveKeyPair::Generate(), south = *crypto::CurveKeyPair::Generate();
  ServerOptions options;
  options.address = "tcp://127.0.0.1:*";
  options.sites = {{"south", PublicOf(south)}};
  auto server = std::move(*Server::Bind(options, key));
  Bytes keys(key.public_key().begin(), key.public_key().end());
  keys.insert(keys.end(), south.public_key().begin(), south.public_key().end());
  keys.insert(keys.end(), south.secret().reveal().begin(), south.secret().reveal().end());
  const std::string text = server->address() + " " + ToHex(keys) + "\n";
  ASSERT_EQ(::write(fds[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  const long before = ResidentKb();
  const uint64_t refused = server->refused();
  long most = 0;
  std::vector<Server::Event> events;
  for (const int64_t end = SystemClock().MonotonicMillis() + 10'000;
       server->refused() == refused && SystemClock().MonotonicMillis() < end;) {
    ASSERT_TRUE(server->Poll(10, {}, &events).ok());
    most = std::max(most, ResidentKb() - before);
  }
  ::kill(attacker, SIGKILL);
  ::waitpid(attacker, nullptr, 0);
  EXPECT_GT(server->refused(), refused);
  EXPECT_LT(most, 64 * 1024);
}

TEST(Bind, AnAddressInUseIsAnError) {
  const auto key = *crypto::CurveKeyPair::Generate();
  ServerOptions options;
  options.address = "tcp://127.0.0.1:*";
  auto first = Server::Bind(options, key);
  ASSERT_TRUE(first.has_value()) << first.error().ToString();
  options.address = (*first)->address();
  EXPECT_FALSE(Server::Bind(options, key).has_value());
}

}  // namespace
}  // namespace tidegate::transport
