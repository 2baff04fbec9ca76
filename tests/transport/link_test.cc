// Contents over a bad link: cut, stalled, damaged, slow and in stripes, they arrive
// exactly, once, and little is sent twice.
#include <gtest/gtest.h>

#include <fstream>

#include "blocks/content.h"
#include "content_transfer.h"
#include "link_emulator.h"
#include "wire_fixture.h"

namespace tidegate::transport {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kWindow = 2u << 20;

class LinkTest : public WireTest {
 protected:
  LinkTest() { fs::remove_all(dir_); }
  ~LinkTest() override { fs::remove_all(dir_); }

  void Make(size_t bytes) {
    content_.resize(bytes);
    for (size_t i = 0; i < bytes; ++i) content_[i] = static_cast<uint8_t>(i * i >> 7 ^ i >> 16);
    const blocks::Content cut = blocks::Cut(content_, [](const Digest&, ByteSpan) {});
    manifest_.content = cut.id;
    manifest_.ciphertext_bytes = bytes;
    manifest_.blocks.items = cut.blocks;
  }
  void Through(const LinkOptions& options) {
    auto link = LinkEmulator::Start(PortOf(server_->address()), options);
    ASSERT_TRUE(link.has_value()) << link.error().ToString();
    link_ = std::move(*link);
  }
  std::unique_ptr<Client> Dial(uint32_t stripes) {
    ClientOptions options;
    options.address =
        link_ ? "tcp://127.0.0.1:" + std::to_string(link_->port()) : server_->address();
    options.server_key = PublicOf(key_);
    options.site = "north";
    options.federation = Federation();
    options.stripes = stripes;
    return std::move(*Client::Connect(options, north_));
  }
  Result<Bytes> Block(uint32_t index) const {
    const size_t at = index * protocols::kBlockBytes;
    const ByteSpan block =
        ByteSpan(content_).subspan(at, std::min(protocols::kBlockBytes, content_.size() - at));
    return Bytes(block.begin(), block.end());
  }
  // Until the sender has its receipt.
  void Carry(
      Client& client, int millis, const std::function<void()>& meanwhile = [] {}) {
    auto store = blocks::BlockStore::Open(dir_, 1 << 30);
    ContentTaker taker(
        *server_, *store,
        [this](const auto&) {
          ++commits_;
          return OkStatus();
        },
        kWindow);
    ContentSender sender(client, manifest_, [this](uint32_t i) { return Block(i); });
    const int64_t end = SystemClock().MonotonicMillis() + millis;
    while (!sender.done() && SystemClock().MonotonicMillis() < end) {
      ASSERT_TRUE(taker.Step(1).ok());
      ASSERT_TRUE(sender.Step(1).ok());
      meanwhile();
    }
    ASSERT_TRUE(sender.done()) << sender.chunks() << " chunks, " << sender.connects()
                               << " connections";
    EXPECT_EQ(commits_, 1);
    EXPECT_EQ(taker.refused(), 0u);
    chunks_ = sender.chunks();
    connects_ = sender.connects();
    Bytes arrived;
    for (const Digest& id : manifest_.blocks.items) {
      const auto block = store->Get(id);
      ASSERT_TRUE(block.has_value());
      arrived.insert(arrived.end(), block->begin(), block->end());
    }
    EXPECT_EQ(arrived, content_);
  }
  uint64_t Resent() const { return chunks_ - manifest_.blocks.size(); }

  const fs::path dir_ = fs::temp_directory_path() / fmt::format("tidegate_link_{}", ::getpid());
  std::unique_ptr<LinkEmulator> link_;
  Bytes content_;
  protocols::ReleaseManifest manifest_;
  int commits_ = 0;
  uint64_t chunks_ = 0, connects_ = 0;
};

TEST_F(LinkTest, CutsCostAWindowEachAndTheRedialIsQuick) {
  Make(6'000'000);
  Through({.bits_per_second = 60e6, .delay_millis = 10, .cuts = {1'500'000, 4'000'000}});
  auto client = Dial(1);
  Carry(*client, 15'000);
  const auto counts = link_->counts();
  EXPECT_EQ(counts.cuts, 2u);
  EXPECT_GE(connects_, 3u);
  EXPECT_LE(Resent(), 2 * kWindow / protocols::kBlockBytes);
  EXPECT_LT(counts.slowest_redial_millis, 500);
}

TEST_F(LinkTest, StripesThatOvertakeEachOtherBringAContentWhole) {
  Make(6'000'000);
  Through({.bits_per_second = 100e6, .delay_millis = 5, .jitter_millis = 30, .cuts = {3'000'000}});
  auto client = Dial(4);
  Carry(*client, 15'000);
  EXPECT_GE(link_->counts().connections, 10u) << "control and four of bulk, twice";
  EXPECT_LE(Resent(), kWindow / protocols::kBlockBytes);
}

TEST_F(LinkTest, AStripeThatEndsIsNoEndOfTheOthers) {
  Make(6'000'000);
  Through({.bits_per_second = 60e6, .delay_millis = 5});
  auto client = Dial(3);
  bool cut = false, gone = false;
  Carry(*client, 15'000, [&] {
    if (!cut && link_->counts().connections >= 4 && link_->counts().up_bytes > 2'000'000) {
      link_->CutNewest();
      cut = true;
    }
    gone = gone || (cut && !client->connected());
  });
  EXPECT_TRUE(cut);
  EXPECT_FALSE(gone);
  EXPECT_GE(connects_, 2u) << "what was under way is said again";
  EXPECT_GE(link_->counts().connections, 5u) << "and the stripe dialled again";
  EXPECT_LE(Resent(), kWindow / protocols::kBlockBytes);
}

TEST_F(LinkTest, DamageOnTheWayEndsConnectionsAndNeverPassesAsContent) {
  Make(5'000'000);
  Through({.damage_every = 900'000, .seed = 5});
  auto client = Dial(1);
  Carry(*client, 20'000, [&] {
    if (link_->counts().damaged >= 4) link_->SetDamage(0);
  });
  EXPECT_GE(link_->counts().damaged, 2u);
  EXPECT_GE(connects_, 2u);
}

TEST_F(LinkTest, ACableThatWasOutCostsNoConnection) {
  Make(3'000'000);
  Through({.bits_per_second = 60e6, .delay_millis = 5});
  auto client = Dial(2);
  int64_t stalled_at = 0, restored_at = 0;
  Carry(*client, 15'000, [&] {
    const int64_t now = SystemClock().MonotonicMillis();
    if (stalled_at == 0 && link_->counts().up_bytes > 1'000'000) {
      link_->Stall();
      stalled_at = now;
    }
    if (stalled_at != 0 && restored_at == 0 && now > stalled_at + 700) {
      link_->Restore();
      restored_at = now;
    }
  });
  EXPECT_NE(restored_at, 0);
  EXPECT_EQ(link_->counts().connections, 3u);
  EXPECT_EQ(Resent(), 0u);
}

TEST_F(LinkTest, ALinkThatIsDownAtFirstIsDialledUntilItIsUp) {
  Make(100'000);
  Through({});
  link_->Cut(/*also_refuse=*/true);
  auto client = Dial(1);
  EXPECT_FALSE(UntilConnected(*client, 600));
  link_->Restore();
  Carry(*client, 5'000);
}

TEST(Stripes, TheirNumberHasALimit) {
  const auto key = *crypto::CurveKeyPair::Generate();
  for (const uint32_t stripes : {0u, 17u}) {
    ClientOptions options;
    options.address = "tcp://127.0.0.1:1";
    options.stripes = stripes;
    const auto client = Client::Connect(options, key);
    ASSERT_FALSE(client.has_value());
    EXPECT_NE(client.error().message().find("16"), std::string::npos);
  }
}

}  // namespace
}  // namespace tidegate::transport
