// A valid session with one bit flipped on its way, at each byte in turn: CURVE notices, and what
// arrives is either what was sent or nothing. And what strangers cost who only wait.
//
// TIDEGATE_FLIP_STRIDE=1 flips every byte; the default is a sample.
#include <gtest/gtest.h>

#include <cstdlib>

#include "blocks/content.h"
#include "content_transfer.h"
#include "link_emulator.h"
#include "wire_fixture.h"

namespace tidegate::transport {
namespace {

namespace fs = std::filesystem;

class SessionTest : public WireTest {
 protected:
  static constexpr int kMillis = 400;
  SessionTest() { Forget(); }
  ~SessionTest() override { Forget(); }
  void Forget() const { fs::remove_all(dir_); }

  struct Seen {
    bool done = false;
    int commits = 0;
    uint64_t refused = 0;  // blocks
    LinkEmulator::Counts counts;
  };
  // A block of 700 bytes offered, taken and receipted over a line that flips a bit.
  Seen Run(const LinkOptions& options) {
    Forget();
    Seen seen;
    const Bytes block(700, 9);
    protocols::ReleaseManifest manifest;
    manifest.blocks.items = {blocks::BlockId(block)};
    manifest.content = blocks::ContentId(manifest.blocks.items);
    manifest.ciphertext_bytes = block.size();
    const auto link = std::move(*LinkEmulator::Start(PortOf(server_->address()), options));
    ClientOptions client_options;
    client_options.address = "tcp://127.0.0.1:" + std::to_string(link->port());
    client_options.server_key = PublicOf(key_);
    client_options.site = "north";
    client_options.federation = Federation();
    const auto client = std::move(*Client::Connect(client_options, north_));
    auto store = std::move(*blocks::BlockStore::Open(dir_, 1 << 20));
    ContentTaker taker(*server_, store, [&](const protocols::ReleaseManifest& taken) {
      ++seen.commits;
      EXPECT_EQ(taken, manifest);
      EXPECT_EQ(*store.Get(manifest.blocks.items[0]), block);
      return OkStatus();
    });
    ContentSender sender(*client, manifest, [&](uint32_t) { return Result<Bytes>(block); });
    const int64_t end = SystemClock().MonotonicMillis() + kMillis;
    while (!sender.done() && SystemClock().MonotonicMillis() < end) {
      EXPECT_TRUE(taker.Step(1).ok());
      EXPECT_TRUE(sender.Step(1).ok());
    }
    seen.done = sender.done();
    seen.refused = taker.refused();
    seen.counts = link->counts();
    return seen;
  }

  const fs::path dir_ = fs::temp_directory_path() / fmt::format("tidegate_session_{}", ::getpid());
};

TEST_F(SessionTest, EveryByteFlippedInTurnIsNoticedAndChangesNothing) {
  const Seen whole = Run({});
  ASSERT_TRUE(whole.done);
  ASSERT_EQ(whole.commits, 1);
  const char* text = std::getenv("TIDEGATE_FLIP_STRIDE");
  const int64_t stride = text != nullptr ? std::max(1L, std::atol(text)) : 131;
  int flipped = 0, survived = 0;
  for (const bool up : {true, false}) {
    const auto bytes = static_cast<int64_t>(up ? whole.counts.up_bytes : whole.counts.down_bytes);
    for (int64_t at = 0; at < bytes; at += stride) {
      LinkOptions options;
      (up ? options.flip_up : options.flip_down) = at;
      const Seen seen = Run(options);
      flipped += seen.counts.damaged > 0 ? 1 : 0;
      survived += seen.done ? 1 : 0;
      EXPECT_LE(seen.commits, 1) << at;
      EXPECT_EQ(seen.refused, 0u) << "no damaged block comes through CURVE; byte " << at;
    }
  }
  EXPECT_GT(flipped, 20);
  EXPECT_GT(survived, 0) << "a connection that ended was made again";
}

TEST(Strangers, AThousandIdleConnectionsKeepNoSiteOutAndCostLittle) {
  const auto key = *crypto::CurveKeyPair::Generate(), north = *crypto::CurveKeyPair::Generate();
  ServerOptions options;
  options.address = "tcp://127.0.0.1:*";
  options.federation = Federation();
  options.sites = {{"north", PublicOf(north)}};
  const auto server = std::move(*Server::Bind(options, key));
  const long before = ResidentKb();
  std::vector<Fd> idle;
  std::vector<Server::Event> events;
  for (int i = 0; i < 1000; ++i) {
    idle.push_back(DialPort(PortOf(server->address())));
    if (i % 50 == 0) {
      ASSERT_TRUE(server->Poll(0, {}, &events).ok());
    }
  }
  ClientOptions client_options;
  client_options.address = server->address();
  client_options.server_key = PublicOf(key);
  client_options.site = "north";
  client_options.federation = Federation();
  const auto client = std::move(*Client::Connect(client_options, north));
  std::vector<Client::Event> at_client;
  const int64_t end = SystemClock().MonotonicMillis() + 20'000;
  while (!client->connected() && SystemClock().MonotonicMillis() < end) {
    ASSERT_TRUE(server->Poll(5, {}, &events).ok());
    ASSERT_TRUE(client->Poll(5, {}, &at_client).ok());
  }
  EXPECT_TRUE(client->connected());
  EXPECT_LT(ResidentKb() - before, 64 * 1024);
}

// A greeting of 64 bytes that comes a byte at a time is over when the handshake's time is.
TEST_F(SessionTest, ASlowHandshakeIsEnded) {
  constexpr int kSlow = 20;
  std::vector<Fd> fds;
  for (int i = 0; i < kSlow; ++i) fds.push_back(Dial());
  auto north = Connect(north_, "north");
  ASSERT_TRUE(UntilConnected(*north));
  const uint8_t greeting[] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'C', 'U', 'R', 'V', 'E'};
  size_t said = 0;
  const auto ended = [&] {
    if (said < std::size(greeting)) {
      for (const Fd& fd : fds) ::send(fd.get(), greeting + said, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
      ++said;
    }
    Until(
        north.get(), [] { return false; }, 200);
    return std::all_of(fds.begin(), fds.end(), Ended);
  };
  const int64_t end = SystemClock().MonotonicMillis() + 9'000;
  bool all = false;
  while (!all && SystemClock().MonotonicMillis() < end) all = ended();
  EXPECT_TRUE(all) << "within the five seconds of a handshake, and some";
  ExpectServed(*north);
}

TEST_F(SessionTest, ARefusalIsToldOncePerCauseHoweverOftenItComes) {
  auto honest = Connect(north_, "north");
  ASSERT_TRUE(UntilConnected(*honest));
  testing::internal::CaptureStderr();
  for (int i = 0; i < 40; ++i) {
    // The site's own key, which is allowed, and another name in HELLO: refused after the handshake.
    const auto liar = Connect(north_, i % 2 == 0 ? "south" : "east");
    const uint64_t before = server_->refused();
    ASSERT_TRUE(Until(liar.get(), [&] { return server_->refused() > before; }));
  }
  const std::string log = testing::internal::GetCapturedStderr();
  size_t lines = 0;
  for (size_t at = 0; (at = log.find("peer_refused", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 1u) << log;
  ExpectServed(*honest);
}

}  // namespace
}  // namespace tidegate::transport
