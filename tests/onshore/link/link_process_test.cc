// tidegate-link behind its real walls: 5 MB each way, through restarts of everybody around it.
#include <gtest/gtest.h>

#include "onshore/sandbox/statement.h"
#include "tests/onshore/link/link_site.h"
#include "tests/onshore/sandbox/socks_proxy.h"

namespace tidegate::onshore {
namespace {

using protocols::Channel;
using protocols::Encode;
using protocols::MessageType;
using transport::Server;

constexpr size_t kBytes = 5'000'000;
constexpr int kHeldBlocks = 8;
constexpr uint64_t kHeldBytes = kHeldBlocks * protocols::kBlockBytes;

class LinkProcessTest : public testing::Test {
 protected:
  void SetUp() override {
    site_.on_gate = [this](const Peer::Received& received) { OnGate(received); };
    site_.on_server = [this](const Server::Event& event) { OnServer(event); };
    site_.StartServer();
  }

  // After what the test wants of the coordinator is set: link offers before this returns.
  void Begin() {
    if (site_.StartLink()) return;
    ASSERT_NE(site_.log().find("wall"), std::string::npos) << site_.log();
    GTEST_SKIP() << "this machine cannot raise link's walls: " << site_.log();
  }

  // The gate: offers what is open whenever link is new, gives the blocks that are asked for.
  void OnGate(const Peer::Received& received) {
    if (received.type == IpcType::kHello) {
      ++hellos_;
      ASSERT_TRUE(
          site_.gate().SendBulk(BulkKind::kOffer, update_.manifest.content, 0, update_.offer).ok());
      connected_.reset();
      if (wants_adapter_) WantAdapter();
    } else if (received.type == IpcType::kLinkState) {
      const bool connected = protocols::Decode<LinkState>(received.body)->connected;
      if (wants_adapter_ && connected && connected_ == false) WantAdapter();
      connected_ = connected;
    } else if (received.type == IpcType::kIsolation) {
      statement_ = protocols::Decode<Isolation>(received.body)->table.text;
    } else if (received.type == IpcType::kNeedBlock) {
      const auto need = *protocols::Decode<NeedBlock>(received.body);
      ASSERT_EQ(need.content, update_.manifest.content);
      ASSERT_TRUE(
          site_.gate()
              .SendBulk(BulkKind::kBlock, need.content, need.index, update_.blocks.at(need.index))
              .ok());
    } else if (received.type == IpcType::kOfferRefused) {
      refused_ = protocols::Decode<OfferRefused>(received.body).value();
    } else if (received.bulk && received.bulk->kind == BulkKind::kBlock) {
      adapter_[received.bulk->index] = received.bulk->bytes;
    } else if (received.bulk) {
      bulks_.push_back(*received.bulk);
    }
  }
  // What is missing of it.
  void WantAdapter() {
    for (uint32_t i = 0; i < downward_.blocks.size(); ++i) {
      if (adapter_.contains(i)) continue;
      ASSERT_TRUE(site_.gate()
                      .Send(IpcType::kWantBlocks, WantBlocks{downward_.manifest.content, i, 1})
                      .ok());
    }
  }
  // The coordinator: takes the update within a window, sends the adapter that is wanted.
  void OnServer(const Server::Event& event) {
    if (event.kind != Server::Event::Kind::kMessage) return;
    switch (event.type) {
      case MessageType::kOffer:
        ++offers_;
        EXPECT_EQ(ToHex(event.body), ToHex(update_.offer));
        if (answer_) return Say(Channel::kControl, MessageType::kError, *answer_);
        Say(Channel::kControl, MessageType::kHave, taker_.receiver.HaveMessage());
        for (auto& want : taker_.receiver.Ask()) {
          if (held_) want.credit_bytes = std::min<uint64_t>(want.credit_bytes, kHeldBytes);
          Say(Channel::kControl, MessageType::kWant, want);
        }
        return;
      case MessageType::kChunk:
        return OnChunk(*protocols::DecodeChunk(event.body));
      case MessageType::kCommit:
        ++commits_;
        EXPECT_TRUE(taker_.receiver.complete());
        ASSERT_TRUE(
            site_.server().Send("north", Channel::kControl, MessageType::kReceipt, receipt_).ok());
        return;
      case MessageType::kWant:
        EXPECT_TRUE(sender_.OnWant(*protocols::Decode<protocols::Want>(event.body)));
        return SendAdapter();
      case MessageType::kCredit:
        EXPECT_TRUE(sender_.OnCredit(*protocols::Decode<protocols::Credit>(event.body)));
        return SendAdapter();
      default:
        return;
    }
  }
  void OnChunk(const protocols::Chunk& chunk) {
    ++chunks_;
    ASSERT_TRUE(taker_.Take(chunk));
    const auto credit = taker_.receiver.Stored(chunk.index, chunk.bytes.size());
    if (credit && !held_) Say(Channel::kControl, MessageType::kCredit, *credit);
    if (taker_.receiver.complete()) {
      Say(Channel::kControl, MessageType::kHave, taker_.receiver.HaveMessage());
    }
  }
  void SendAdapter() {
    while (const auto index = sender_.Next()) {
      const Status sent = site_.server().Send(
          "north", Channel::kBulk, MessageType::kChunk,
          protocols::EncodeChunk({downward_.manifest.content, *index, downward_.blocks[*index]}));
      if (!sent.ok()) return;  // it is asked for again
    }
  }
  template <typename Message>
  void Say(Channel channel, MessageType type, const Message& message) {
    // A connection that has ended meanwhile gets it all again.
    [[maybe_unused]] const Status sent =
        site_.server().Send("north", channel, type, Encode(message));
  }
  bool Receipt() const {
    return std::any_of(bulks_.begin(), bulks_.end(), [this](const Bulk& bulk) {
      return bulk.kind == BulkKind::kReceipt && bulk.bytes == receipt_;
    });
  }
  bool AdapterWhole() const { return adapter_.size() == downward_.blocks.size(); }
  void ExpectTheBytes() {
    EXPECT_EQ(taker_.All(), update_.bytes);
    Bytes all;
    for (const auto& [index, block] : adapter_) all.insert(all.end(), block.begin(), block.end());
    EXPECT_EQ(all, downward_.bytes);
  }

  LinkSite site_;
  const SampleUpdate update_{site_.site_key(), kBytes, 1};
  const SampleUpdate downward_{site_.site_key(), kBytes + 7, 2};
  const Bytes receipt_ = update_.ReceiptBody();
  SampleTaker taker_{update_.manifest};
  transport::BlockSender sender_{downward_.manifest.content,
                                 static_cast<uint32_t>(downward_.blocks.size())};
  std::map<uint32_t, Bytes> adapter_;
  std::vector<Bulk> bulks_;
  std::optional<OfferRefused> refused_;
  std::optional<protocols::ErrorMessage> answer_;
  std::string statement_;
  std::optional<bool> connected_;  // as link said last
  bool wants_adapter_ = true;
  bool held_ = false;  // the coordinator lets no more than kHeldBytes come
  int hellos_ = 0, offers_ = 0, chunks_ = 0, commits_ = 0;
};

TEST_F(LinkProcessTest, AnUpdateAndAnAdapterCross) {
  Begin();
  if (IsSkipped()) return;
  ASSERT_TRUE(site_.Until([this] { return Receipt() && AdapterWhole(); })) << site_.log();
  ExpectTheBytes();
  EXPECT_EQ(chunks_, static_cast<int>(update_.blocks.size())) << "each block once";
  EXPECT_EQ(commits_, 1);
  EXPECT_EQ(site_.pin().connects, 2u) << "control and bulk";
  EXPECT_EQ(site_.events(EventCode::kConnected), 1);
  const auto statement = DecodeStatement(statement_);
  ASSERT_TRUE(statement.has_value()) << statement.error().ToString();
  EXPECT_EQ(statement->report.role, Role::kLink);
  EXPECT_TRUE(CheckNoneOpen(statement->rows).ok());
  EXPECT_TRUE(std::filesystem::is_empty(site_.dir() / "empty"));
  const auto end = site_.StopLink();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->end, End::kClean) << end->exit_status << " " << site_.log();
}

// As many as there may be, made within what the supervisor lets a start make.
TEST_F(LinkProcessTest, AnUpdateAndAnAdapterCrossInSixteenStripes) {
  site_.stripes = protocols::kMaxStripes;
  Begin();
  if (IsSkipped()) return;
  ASSERT_TRUE(site_.Until([this] { return Receipt() && AdapterWhole(); })) << site_.log();
  ExpectTheBytes();
  EXPECT_EQ(commits_, 1);
  const auto all = [this] { return site_.pin().connects == 1u + protocols::kMaxStripes; };
  EXPECT_TRUE(site_.Until(all)) << "control and each stripe: " << site_.pin().connects;
  EXPECT_EQ(site_.pin().limited, 0u);
  EXPECT_EQ(site_.server().refused(), 0u);
}

TEST_F(LinkProcessTest, TheCoordinatorIsStartedAgainInTheMiddle) {
  held_ = true;
  Begin();
  if (IsSkipped()) return;
  ASSERT_TRUE(site_.Until([this] { return chunks_ == kHeldBlocks && adapter_.size() >= 3; }));
  site_.StopServer();
  sender_.Reset();
  ASSERT_TRUE(site_.Until([this] { return site_.events(EventCode::kDisconnected) == 1; }));
  held_ = false;
  site_.StartServer();
  ASSERT_TRUE(site_.Until([this] { return Receipt() && AdapterWhole(); })) << site_.log();
  ExpectTheBytes();
  EXPECT_EQ(offers_, 2);
  EXPECT_EQ(chunks_, static_cast<int>(update_.blocks.size())) << "only what was missing";
  EXPECT_EQ(hellos_, 1) << "link is the same";
}

TEST_F(LinkProcessTest, LinkIsKilledInTheMiddle) {
  held_ = true;
  Begin();
  if (IsSkipped()) return;
  ASSERT_TRUE(site_.Until([this] { return chunks_ == kHeldBlocks; }));
  site_.KillLink();
  held_ = false;
  ASSERT_TRUE(site_.StartLink()) << site_.log();
  ASSERT_TRUE(site_.Until([this] { return Receipt() && AdapterWhole(); })) << site_.log();
  ExpectTheBytes();
  EXPECT_EQ(hellos_, 2);
  EXPECT_EQ(offers_, 2);
}

TEST_F(LinkProcessTest, ARefusedOfferIsTold) {
  answer_.emplace();
  answer_->code = static_cast<uint8_t>(Code::kAlreadyExists);
  answer_->about = static_cast<uint16_t>(MessageType::kOffer);
  answer_->content = update_.manifest.content;
  answer_->text = "equivocation";
  Begin();
  if (IsSkipped()) return;
  ASSERT_TRUE(site_.Until([this] { return refused_.has_value(); })) << site_.log();
  EXPECT_EQ(refused_->content, update_.manifest.content);
  EXPECT_EQ(refused_->code, static_cast<uint8_t>(Code::kAlreadyExists));
  EXPECT_EQ(chunks_, 0);
}

std::shared_ptr<SocksRoute> RouteTo(const LinkSite& site, const SocksProxy& proxy) {
  return proxy.Route(
      static_cast<uint16_t>(std::stoi(site.address().substr(site.address().rfind(':') + 1))));
}

TEST_F(LinkProcessTest, AnUpdateAndAnAdapterCrossThroughAProxy) {
  const SocksProxy proxy("me", "secret");
  site_.route = RouteTo(site_, proxy);
  Begin();
  if (IsSkipped()) return;
  ASSERT_TRUE(site_.Until([this] { return Receipt() && AdapterWhole(); })) << site_.log();
  ExpectTheBytes();
  EXPECT_EQ(site_.pin().granted, 2u) << "control and bulk";
  const std::string coordinator = site_.address().substr(6);
  EXPECT_EQ(proxy.requests(), std::vector<std::string>(2, coordinator));
  const auto statement = DecodeStatement(statement_);
  ASSERT_TRUE(statement.has_value()) << statement.error().ToString();
  EXPECT_EQ(statement->pinned_address, coordinator);
  EXPECT_EQ(statement->proxy, proxy.address());
}

TEST_F(LinkProcessTest, AProxyThatResolvesTheNameAndIsDownAtFirst) {
  SocksProxy proxy;
  const auto route = RouteTo(site_, proxy);
  route->target_name = "coordinator.test";
  route->target_port = ntohs(reinterpret_cast<const sockaddr_in&>(route->target).sin_port);
  site_.route = route;
  proxy.Stop();
  Begin();
  if (IsSkipped()) return;
  ASSERT_TRUE(site_.Until([this] { return site_.pin().failed >= 2; })) << site_.log();
  proxy.Start();
  ASSERT_TRUE(site_.Until([this] { return Receipt() && AdapterWhole(); })) << site_.log();
  ExpectTheBytes();
  EXPECT_EQ(proxy.requests().front(),
            "coordinator.test" + site_.address().substr(site_.address().rfind(':')));
}

TEST_F(LinkProcessTest, AProxyDiesInTheMiddle) {
  SocksProxy proxy;
  site_.route = RouteTo(site_, proxy);
  held_ = true;
  Begin();
  if (IsSkipped()) return;
  ASSERT_TRUE(site_.Until([this] { return chunks_ == kHeldBlocks && adapter_.size() >= 3; }));
  proxy.Stop();
  sender_.Reset();
  ASSERT_TRUE(site_.Until([this] { return site_.events(EventCode::kDisconnected) == 1; }));
  held_ = false;
  proxy.Start();
  ASSERT_TRUE(site_.Until([this] { return Receipt() && AdapterWhole(); })) << site_.log();
  ExpectTheBytes();
  EXPECT_EQ(chunks_, static_cast<int>(update_.blocks.size())) << "only what was missing";
  EXPECT_EQ(hellos_, 1) << "link is the same";
}

TEST_F(LinkProcessTest, LinkIsKilledWhileAProxyThinks) {
  SocksProxy proxy;
  proxy.Hold(true);
  site_.route = RouteTo(site_, proxy);
  Begin();
  if (IsSkipped()) return;
  ASSERT_TRUE(site_.Until([&] { return site_.dialling() == 1 && proxy.open() == 1; }));
  site_.KillLink();
  ASSERT_TRUE(site_.Until([&] { return site_.dialling() == 0 && proxy.open() == 0; }))
      << "the dial is dropped with the link that asked for it";
  proxy.Hold(false);
  ASSERT_TRUE(site_.StartLink()) << site_.log();
  ASSERT_TRUE(site_.Until([this] { return Receipt() && AdapterWhole(); })) << site_.log();
  ExpectTheBytes();
}

}  // namespace
}  // namespace tidegate::onshore
