// Sites and coordinator over real sockets: who is served, and what brings them back together.
#include <poll.h>

#include <algorithm>

#include "crypto/hash.h"
#include "tests/transport/wire_fixture.h"
#include "transport/transfer.h"

namespace tidegate::transport {
namespace {

using Kind = Server::Event::Kind;

TEST_F(WireTest, AnEnrolledSiteIsServedOnBothChannels) {
  auto client = Connect(north_, "north");
  ASSERT_TRUE(UntilConnected(*client));
  ASSERT_FALSE(at_server_.empty());
  EXPECT_EQ(at_server_.back().kind, Kind::kConnected);
  EXPECT_EQ(at_server_.back().site, "north");
  EXPECT_EQ(client->lease_millis(), 1234u) << "as the coordinator said it";
  ExpectServed(*client);
  EXPECT_EQ(server_->refused(), 0u);
}

TEST_F(WireTest, UnknownKeysWrongServersAndOtherNamesAreNot) {
  auto stranger = Connect(other_, "north");
  EXPECT_FALSE(UntilConnected(*stranger, 300));
  const uint64_t keys = server_->refused();
  EXPECT_GT(keys, 0u);
  auto misled = Connect(north_, "north", true);
  EXPECT_FALSE(UntilConnected(*misled, 300));
  stranger.reset();
  auto liar = Connect(north_, "south");
  EXPECT_FALSE(UntilConnected(*liar, 300));
  EXPECT_GT(server_->refused(), keys);
  for (const auto& event : at_server_) {
    EXPECT_NE(event.kind, Kind::kMessage);
    EXPECT_NE(event.kind, Kind::kConnected);
  }
}

// libzmq's own reconnecting ends for good at a refused handshake.
TEST_F(WireTest, ASiteThatDialsBeforeItIsEnrolledIsServedOnceItIs) {
  auto client = Connect(other_, "south");
  EXPECT_FALSE(UntilConnected(*client, 300));
  server_->Allow("south", PublicOf(other_));
  EXPECT_TRUE(UntilConnected(*client));
}

TEST_F(WireTest, RevocationCutsALiveConnectionAndTheListIsLive) {
  auto client = Connect(north_, "north");
  ASSERT_TRUE(UntilConnected(*client));
  server_->Revoke("north");
  EXPECT_FALSE(server_->Connected("north", Channel::kControl));
  EXPECT_EQ(server_->Send("north", Channel::kControl, MessageType::kLease, {}).code(),
            Code::kUnavailable);
  ASSERT_TRUE(Until(client.get(), [&] { return !client->connected(); }));
  EXPECT_EQ(client->Send(Channel::kControl, MessageType::kLease, {}).code(), Code::kUnavailable);
  EXPECT_FALSE(UntilConnected(*client, 500));
  server_->Allow("north", PublicOf(north_));
  EXPECT_TRUE(UntilConnected(*client)) << "the same client finds its way back";
  ExpectServed(*client);
}

TEST_F(WireTest, AnEndIsToldWithoutSendingAnything) {
  auto client = Connect(north_, "north");
  ASSERT_TRUE(UntilConnected(*client));
  at_server_.clear();
  client.reset();
  EXPECT_TRUE(Until(nullptr, [&] { return at_server_.size() == 2; })) << "a line each channel";
  for (const auto& event : at_server_) EXPECT_EQ(event.kind, Kind::kDisconnected);
  EXPECT_FALSE(server_->Connected("north", Channel::kControl));
  EXPECT_FALSE(server_->Connected("north", Channel::kBulk));
}

TEST_F(WireTest, ANewConnectionOfASiteReplacesTheOldAndTheEndIsToldFirst) {
  auto first = Connect(north_, "north");
  ASSERT_TRUE(UntilConnected(*first));
  at_server_.clear();
  // It stands still, as behind a dead network, while the site comes back another way.
  auto second = Connect(north_, "north");
  ASSERT_TRUE(UntilConnected(*second));
  std::vector<Kind> kinds;
  for (const auto& event : at_server_) kinds.push_back(event.kind);
  ASSERT_GE(kinds.size(), 3u);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), Kind::kDisconnected), 2);
  EXPECT_EQ(kinds.back(), Kind::kConnected);
  at_client_.clear();
  ExpectServed(*second);
  std::vector<Client::Event> events;
  for (int i = 0; i < 100 && first->connected(); ++i)
    ASSERT_TRUE(first->Poll(10, {}, &events).ok());
  EXPECT_FALSE(first->connected()) << "the old one is cut, not left to hold memory";
}

TEST_F(WireTest, ARestartOfTheCoordinatorIsSurvived) {
  auto client = Connect(north_, "north");
  ASSERT_TRUE(UntilConnected(*client));
  ServerOptions options;
  options.address = server_->address();
  options.federation = Federation();
  options.sites = {{"north", PublicOf(north_)}};
  server_.reset();
  std::vector<Client::Event> events;
  for (int i = 0; i < 100 && client->connected(); ++i) {
    ASSERT_TRUE(client->Poll(20, {}, &events).ok());
  }
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back().kind, Client::Event::Kind::kDisconnected);
  auto again = Server::Bind(options, key_);
  ASSERT_TRUE(again.has_value()) << again.error().ToString();
  server_ = std::move(*again);
  ASSERT_TRUE(UntilConnected(*client));
  ExpectServed(*client);
}

// A port that answers with something else, then the coordinator: no message is final but time.
TEST_F(WireTest, AStrangersAnswerAtTheAddressIsSurvived) {
  ServerOptions options;
  options.address = server_->address();
  options.federation = Federation();
  options.sites = {{"north", PublicOf(north_)}};
  server_.reset();
  Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const sockaddr_in here = Loopback(PortOf(options.address));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&here), sizeof(here)), 0);
  ASSERT_EQ(::listen(listener.get(), 8), 0);
  ClientOptions client_options;
  client_options.address = options.address;
  client_options.server_key = PublicOf(key_);
  client_options.site = "north";
  client_options.federation = Federation();
  auto client = std::move(*Client::Connect(client_options, north_));
  int answered = 0;
  std::vector<Client::Event> events;
  for (int i = 0; i < 200 && answered < 4; ++i) {
    pollfd extra{listener.get(), POLLIN, 0};
    ASSERT_TRUE(client->Poll(20, std::span(&extra, 1), &events).ok());
    if ((extra.revents & POLLIN) == 0) continue;
    const Fd stranger(::accept(listener.get(), nullptr, nullptr));
    const std::string text =
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + std::string(200, 'x');
    ASSERT_GT(::send(stranger.get(), text.data(), text.size(), MSG_NOSIGNAL), 0);
    ++answered;
  }
  EXPECT_EQ(answered, 4) << "both lines dial again after it";
  listener.reset();
  auto again = Server::Bind(options, key_);
  ASSERT_TRUE(again.has_value()) << again.error().ToString();
  server_ = std::move(*again);
  EXPECT_TRUE(UntilConnected(*client));
}

TEST_F(WireTest, ASiteThatTakesNothingFillsItsOwnQueueAlone) {
  auto client = Connect(north_, "north"), south = Connect(other_, "south");
  server_->Allow("south", PublicOf(other_));
  ASSERT_TRUE(UntilConnected(*client));
  ASSERT_TRUE(UntilConnected(*south));
  const Bytes chunk(protocols::kBlockBytes, 1);
  Status status;
  size_t sent = 0;
  while (status.ok() && sent < 2000) {
    status = server_->Send("south", Channel::kBulk, MessageType::kChunk, chunk);
    sent += status.ok() ? 1 : 0;
  }
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_LE(server_->Queued("south", Channel::kBulk), protocols::kMaxQueuedForSite);
  ExpectServed(*client);
  // Nothing was dropped in silence: what was taken arrives once south reads.
  std::vector<Client::Event> events;
  const int64_t end = SystemClock().MonotonicMillis() + 8000;
  size_t came = 0;
  while (came < sent && SystemClock().MonotonicMillis() < end) {
    events.clear();
    ASSERT_TRUE(server_->Poll(1, {}, &at_server_).ok());
    ASSERT_TRUE(south->Poll(1, {}, &events).ok());
    came += events.size();
  }
  EXPECT_EQ(came, sent);
}

// 5 MB up, the connection cut twice on the way, every block asked for again only if it is missing.
TEST_F(WireTest, AContentArrivesExactlyOverTwoReconnects) {
  Bytes content(5'000'000);
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<uint8_t>(i * i >> 7);
  std::vector<Digest> ids;
  crypto::Sha256 all;
  const auto block = [&](uint32_t i) {
    const size_t at = i * protocols::kBlockBytes;
    return ByteSpan(content).subspan(at, std::min(protocols::kBlockBytes, content.size() - at));
  };
  for (uint32_t i = 0; i * protocols::kBlockBytes < content.size(); ++i) {
    ids.push_back(crypto::Sha256::Of(block(i)));
    all.Update(ids.back());
  }
  const Digest id = all.Finish();
  BlockReceiver receiver(id, content.size(), ids, {});
  BlockSender sender(id, static_cast<uint32_t>(ids.size()));
  std::map<uint32_t, Bytes> stored;
  int cuts = 0, sent = 0;
  auto client = Connect(north_, "north");
  const int64_t end = SystemClock().MonotonicMillis() + 10'000;
  while (!receiver.complete() && SystemClock().MonotonicMillis() < end) {
    ASSERT_TRUE(server_->Poll(2, {}, &at_server_).ok());
    for (const auto& event : std::exchange(at_server_, {})) {
      if (event.kind == Kind::kConnected) {
        for (const auto& want : receiver.Ask()) {
          ASSERT_TRUE(
              server_->Send("north", Channel::kBulk, MessageType::kWant, protocols::Encode(want))
                  .ok());
        }
      }
      const auto chunk = event.kind == Kind::kMessage ? protocols::DecodeChunk(event.body)
                                                      : protocols::Decoded<protocols::Chunk>{};
      if (event.kind != Kind::kMessage ||
          receiver.Check(*chunk) != BlockReceiver::Verdict::kStored) {
        continue;
      }
      stored[chunk->index] = Bytes(chunk->bytes.begin(), chunk->bytes.end());
      if (const auto credit = receiver.Stored(chunk->index, chunk->bytes.size())) {
        // Fails while cut; Ask grants anew.
        [[maybe_unused]] const Status status = server_->Send(
            "north", Channel::kBulk, MessageType::kCredit, protocols::Encode(*credit));
      }
      if (cuts < 2 && stored.size() == (cuts + 1) * ids.size() / 3) {
        ++cuts;
        server_->Revoke("north");
        server_->Allow("north", PublicOf(north_));
      }
    }
    ASSERT_TRUE(client->Poll(2, {}, &at_client_).ok());
    for (const auto& event : std::exchange(at_client_, {})) {
      if (event.kind == Client::Event::Kind::kDisconnected) sender.Reset();
      if (event.type == MessageType::kWant) {
        EXPECT_TRUE(sender.OnWant(*protocols::Decode<protocols::Want>(event.body)));
      } else if (event.type == MessageType::kCredit) {
        EXPECT_TRUE(sender.OnCredit(*protocols::Decode<protocols::Credit>(event.body)));
      }
    }
    // Two at a time, so that the cuts come in the middle.
    for (int i = 0; i < 2 && client->connected(); ++i) {
      const auto index = sender.Next();
      if (!index) break;
      const Status status = client->Send(Channel::kBulk, MessageType::kChunk,
                                         protocols::EncodeChunk({id, *index, block(*index)}));
      if (!status.ok()) {
        // Send may be the first to see the cut; the block is asked for again.
        ASSERT_EQ(status.code(), Code::kUnavailable) << status.ToString();
        break;
      }
      ++sent;
    }
  }
  EXPECT_EQ(cuts, 2);
  ASSERT_TRUE(receiver.complete());
  Bytes arrived;
  for (const auto& [index, bytes] : stored) {
    arrived.insert(arrived.end(), bytes.begin(), bytes.end());
  }
  EXPECT_EQ(arrived, content);
  EXPECT_LT(sent, static_cast<int>(2 * ids.size())) << "what was there was not sent again";
}

TEST(Bind, AnAddressInUseIsAnError) {
  const auto key = *crypto::CurveKeyPair::Generate();
  ServerOptions options;
  options.address = "tcp://127.0.0.1:*";
  auto first = Server::Bind(options, key);
  ASSERT_TRUE(first.has_value()) << first.error().ToString();
  options.address = (*first)->address();
  const auto second = Server::Bind(options, key);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(second.error().message().find(options.address), std::string::npos);
}

TEST(Bind, TheSelfTestFindsTheServerOnEveryAddressAndOnIpv6) {
  const auto key = *crypto::CurveKeyPair::Generate();
  ServerOptions options;
  options.address = "tcp://0.0.0.0:*";
  auto any = Server::Bind(options, key);
  EXPECT_TRUE(any.has_value()) << any.error().ToString();
  const Fd probe(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_loopback;
  if (::bind(probe.get(), reinterpret_cast<sockaddr*>(&six), sizeof(six)) != 0) {
    GTEST_SKIP() << "this machine has no IPv6 loopback";
  }
  options.address = "tcp://[::1]:*";
  auto v6 = Server::Bind(options, key);
  EXPECT_TRUE(v6.has_value()) << v6.error().ToString();
}

}  // namespace
}  // namespace tidegate::transport
