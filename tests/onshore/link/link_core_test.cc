// Link without descriptors: what passes, what does not, and that credit is never exceeded.
#include "onshore/link/link_core.h"

#include <gtest/gtest.h>

#include "tests/onshore/link/samples.h"

namespace tidegate::onshore {
namespace {

using protocols::Channel;
using protocols::Encode;
using protocols::kBlockBytes;
using protocols::MessageType;

constexpr uint64_t kSession = 77;

class LinkCoreTest : public testing::Test {
 protected:
  // The bodies of one message type among effects.
  static std::vector<Bytes> Said(const LinkEffects& effects, MessageType type) {
    std::vector<Bytes> bodies;
    for (const LinkEffect& effect : effects) {
      const auto* wire = std::get_if<permit::Outbound>(&effect);
      if (wire == nullptr || wire->type() != type) continue;
      EXPECT_EQ(wire->channel() == Channel::kBulk, type == MessageType::kChunk ||
                                                       type == MessageType::kWant ||
                                                       type == MessageType::kCredit);
      bodies.push_back(wire->body());
    }
    return bodies;
  }
  static std::vector<Bytes> Told(const LinkEffects& effects, IpcType type) {
    std::vector<Bytes> bodies;
    for (const LinkEffect& effect : effects) {
      const auto* message = std::get_if<ToGate>(&effect);
      if (message != nullptr && message->type == type) bodies.push_back(message->body);
    }
    return bodies;
  }
  static std::vector<BulkToGate> Handed(const LinkEffects& effects) {
    std::vector<BulkToGate> bulks;
    for (const LinkEffect& effect : effects) {
      if (const auto* bulk = std::get_if<BulkToGate>(&effect)) bulks.push_back(*bulk);
    }
    return bulks;
  }
  LinkEffects Offer(const SampleUpdate& update) {
    return link_.OnGateBulk(BulkKind::kOffer, update.manifest.content, 0, update.offer);
  }
  // Which blocks link asks of the gate now.
  std::vector<uint32_t> Pump() {
    LinkEffects out;
    link_.Pump(&out);
    std::vector<uint32_t> indices;
    for (const Bytes& body : Told(out, IpcType::kNeedBlock)) {
      indices.push_back(protocols::Decode<NeedBlock>(body)->index);
    }
    return indices;
  }
  LinkEffects Give(const SampleUpdate& update, uint32_t index) {
    return link_.OnGateBulk(BulkKind::kBlock, update.manifest.content, index, update.blocks[index]);
  }
  void Want(const SampleUpdate& update, uint32_t first, uint32_t count, uint64_t credit) {
    const protocols::Want want{update.manifest.content, first, count, credit};
    EXPECT_TRUE(link_.OnCoordinator(MessageType::kWant, Encode(want)).empty());
  }
  void Error(const Hash32& content, MessageType about, Code code, LinkEffects* out) {
    protocols::ErrorMessage error;
    error.code = static_cast<uint8_t>(code);
    error.about = static_cast<uint16_t>(about);
    error.content = content;
    error.text = "a text";
    *out = link_.OnCoordinator(MessageType::kError, Encode(error));
  }

  const crypto::SigningKey key_ = *crypto::SigningKey::Generate();
  const SampleUpdate update_{key_, 20 * kBlockBytes + 99, 1};
  LinkCore link_{key_.verify_key(), SampleFederation(), "north"};
};

TEST_F(LinkCoreTest, WhatTheCoordinatorSignsGoesToTheGateAsItCame) {
  const Bytes body = {1, 2, 3, 250};
  const std::pair<MessageType, BulkKind> passed[] = {
      {MessageType::kJob, BulkKind::kJob},         {MessageType::kRound, BulkKind::kRound},
      {MessageType::kAdapter, BulkKind::kAdapter}, {MessageType::kReceipt, BulkKind::kReceipt},
      {MessageType::kAbandon, BulkKind::kAbandon}, {MessageType::kBase, BulkKind::kBase},
      {MessageType::kRevoke, BulkKind::kRevoke}};
  for (const auto& [type, kind] : passed) {
    const LinkEffects out = link_.OnCoordinator(type, body);
    ASSERT_EQ(out.size(), 1u);
    ASSERT_EQ(Handed(out).size(), 1u);
    EXPECT_EQ(Handed(out)[0].kind, kind);
    EXPECT_EQ(Handed(out)[0].bytes, body);
  }
  for (const MessageType type : {MessageType::kHello, MessageType::kOffer, MessageType::kCommit,
                                 MessageType::kLease, static_cast<MessageType>(99)}) {
    EXPECT_TRUE(link_.OnCoordinator(type, body).empty());
  }
}

TEST_F(LinkCoreTest, AnUpdateCrossesWithinItsCredit) {
  link_.OnConnected(kSession);
  ASSERT_EQ(Said(Offer(update_), MessageType::kOffer), std::vector<Bytes>{update_.offer});
  EXPECT_TRUE(Pump().empty()) << "nothing is asked for";
  SampleTaker taker(update_.manifest);
  constexpr uint64_t kWindow = 6 * kBlockBytes;
  uint64_t granted = kWindow, sent = 0;
  Want(update_, 0, taker.receiver.blocks(), kWindow);
  std::vector<uint32_t> asked;
  for (int turn = 0; !taker.receiver.complete(); ++turn) {
    ASSERT_LT(turn, 200) << "it stalls";
    for (const uint32_t index : Pump()) asked.push_back(index);
    ASSERT_LE(asked.size(), 4u) << "more than 1 MiB in this process";
    if (asked.empty()) {
      granted += kBlockBytes;
      const protocols::Credit credit{update_.manifest.content, kBlockBytes};
      link_.OnCoordinator(MessageType::kCredit, Encode(credit));
      continue;
    }
    const uint32_t index = asked.front();
    asked.erase(asked.begin());
    const auto chunks = Said(Give(update_, index), MessageType::kChunk);
    ASSERT_EQ(chunks.size(), 1u);
    const auto chunk = *protocols::DecodeChunk(chunks[0]);
    sent += kBlockBytes;
    ASSERT_LE(sent, granted);
    ASSERT_TRUE(taker.Take(chunk));
    taker.receiver.Stored(chunk.index, chunk.bytes.size());
  }
  EXPECT_EQ(taker.All(), update_.bytes);
  const auto commits =
      Said(link_.OnCoordinator(MessageType::kHave, Encode(taker.receiver.HaveMessage())),
           MessageType::kCommit);
  ASSERT_EQ(commits.size(), 1u);
  EXPECT_EQ(protocols::Decode<protocols::Commit>(commits[0])->content, update_.manifest.content);
  const Bytes receipt = update_.ReceiptBody();
  EXPECT_EQ(Handed(link_.OnCoordinator(MessageType::kReceipt, receipt))[0].bytes, receipt);
  link_.OnDisconnected();
  EXPECT_TRUE(Said(link_.OnConnected(kSession), MessageType::kOffer).empty()) << "it is taken";
}

TEST_F(LinkCoreTest, OnlyWhatTheSitesOwnGateSignedIsOffered) {
  link_.OnConnected(kSession);
  const crypto::SigningKey other = *crypto::SigningKey::Generate();
  protocols::Id16 elsewhere = SampleFederation();
  elsewhere[0] ^= 1;
  const SampleUpdate refused[] = {
      {other, 1000, 2}, {key_, 1000, 3, "south"}, {key_, 1000, 4, "north", elsewhere}};
  uint64_t count = 0;
  for (const SampleUpdate& update : refused) {
    EXPECT_TRUE(Offer(update).empty());
    EXPECT_EQ(link_.refused(), ++count);
    Want(update, 0, 1, kBlockBytes);
    ++count;
    EXPECT_TRUE(Pump().empty());
  }
  SampleUpdate flipped = update_;
  flipped.offer[40] ^= 1;
  EXPECT_TRUE(Offer(flipped).empty());
  EXPECT_TRUE(link_.OnGateBulk(BulkKind::kOffer, {}, 0, Bytes(50, 9)).empty());
  EXPECT_TRUE(Give(update_, 0).empty()) << "a block of nothing that is offered";
  EXPECT_TRUE(Said(link_.OnConnected(kSession), MessageType::kOffer).empty());
}

TEST_F(LinkCoreTest, ABlockThatIsNotTheSignedOneStaysHere) {
  link_.OnConnected(kSession);
  Offer(update_);
  Want(update_, 0, 4, 4 * kBlockBytes);
  const auto asked = Pump();
  ASSERT_EQ(asked.size(), 4u);
  Bytes other = update_.blocks[asked[0]];
  other[100] ^= 1;
  EXPECT_TRUE(
      link_.OnGateBulk(BulkKind::kBlock, update_.manifest.content, asked[0], other).empty());
  EXPECT_EQ(link_.refused(), 1u);
  EXPECT_EQ(Said(Give(update_, asked[1]), MessageType::kChunk).size(), 1u);
}

TEST_F(LinkCoreTest, AReconnectAsksAndIsAskedAnewAndSaysWhatIsKnown) {
  Known known;
  known.round = 4;
  known.adapter_version = 3;
  link_.OnGateMessage(IpcType::kKnown, Encode(known));
  EXPECT_TRUE(Offer(update_).empty()) << "nobody is there";
  LinkEffects out = link_.OnConnected(kSession);
  EXPECT_TRUE(protocols::Decode<LinkState>(Told(out, IpcType::kLinkState).at(0))->connected);
  EXPECT_EQ(Said(out, MessageType::kOffer).size(), 1u);
  const auto lease = protocols::Decode<protocols::Lease>(Said(out, MessageType::kLease).at(0));
  EXPECT_EQ(lease->session, kSession);
  EXPECT_EQ(lease->round, 4u);
  EXPECT_EQ(lease->adapter_version, 3u);

  Want(update_, 0, 21, 21 * kBlockBytes);
  const auto asked = Pump();
  ASSERT_EQ(asked.size(), 4u);
  const Hash32 adapter{9};
  out = link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{adapter, 0, 64}));
  out = link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{adapter, 64, 10}));
  EXPECT_EQ(protocols::Decode<protocols::Want>(Said(out, MessageType::kWant).at(0))->credit_bytes,
            0u)
      << "one window a content";

  out = link_.OnDisconnected();
  EXPECT_FALSE(protocols::Decode<LinkState>(Told(out, IpcType::kLinkState).at(0))->connected);
  EXPECT_TRUE(link_.OnLease().empty());
  EXPECT_TRUE(Give(update_, asked[0]).empty());
  EXPECT_TRUE(link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{adapter, 70, 4})).empty())
      << "nobody to ask";
  out = link_.OnConnected(kSession);
  EXPECT_TRUE(Said(out, MessageType::kWant).empty()) << "the gate knows what it still lacks";
  EXPECT_TRUE(protocols::Decode<LinkState>(Told(out, IpcType::kLinkState).at(0))->connected);
  const auto again = link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{adapter, 70, 4}));
  EXPECT_EQ(*protocols::Decode<protocols::Want>(Said(again, MessageType::kWant).at(0)),
            (protocols::Want{adapter, 70, 4, transport::kWindowBytes}))
      << "a window anew";
  EXPECT_EQ(Said(out, MessageType::kOffer).size(), 1u);
  EXPECT_TRUE(Pump().empty()) << "the credit is gone with the connection";
  EXPECT_TRUE(Give(update_, asked[1]).empty()) << "so is what was under way";
  Want(update_, asked[1], 1, kBlockBytes);
  EXPECT_EQ(Pump(), std::vector<uint32_t>{asked[1]});
  EXPECT_EQ(Said(Give(update_, asked[1]), MessageType::kChunk).size(), 1u);
  EXPECT_TRUE(Give(update_, asked[1]).empty()) << "asked once, sent once";
}

TEST_F(LinkCoreTest, AGateThatWasStartedAgainIsBelievedAnew) {
  link_.OnConnected(kSession);
  Offer(update_);
  Want(update_, 0, 4, 4 * kBlockBytes);
  link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{Hash32{9}, 0, 5}));
  const LinkEffects out = link_.OnGateMessage(IpcType::kHello, Encode(IpcHello{5, false}));
  EXPECT_TRUE(protocols::Decode<LinkState>(Told(out, IpcType::kLinkState).at(0))->connected);
  EXPECT_TRUE(Pump().empty());
  link_.OnDisconnected();
  const LinkEffects again = link_.OnConnected(kSession);
  EXPECT_TRUE(Said(again, MessageType::kOffer).empty());
  EXPECT_TRUE(Said(again, MessageType::kWant).empty());
}

TEST_F(LinkCoreTest, ABaseComesBesideAnAdapterEachWithItsOwnCredit) {
  link_.OnConnected(kSession);
  const Hash32 adapter{9}, base{10};
  link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{adapter, 0, 8, false}));
  const LinkEffects out =
      link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{base, 0, 8000, true}));
  EXPECT_EQ(*protocols::Decode<protocols::Want>(Said(out, MessageType::kWant).at(0)),
            (protocols::Want{base, 0, 8000, transport::kWindowBytes}));
  const Bytes block(1000, 4);
  std::map<Hash32, uint64_t> back;
  for (uint32_t i = 0; i < 8; ++i) {
    for (const Hash32& content : {adapter, base}) {
      const LinkEffects chunk =
          link_.OnCoordinator(MessageType::kChunk, protocols::EncodeChunk({content, i, block}));
      ASSERT_EQ(Handed(chunk).size(), 1u);
      for (const Bytes& body : Said(chunk, MessageType::kCredit)) {
        const auto credit = *protocols::Decode<protocols::Credit>(body);
        EXPECT_EQ(credit.content, content);
        back[content] += credit.bytes;
      }
    }
    // A new adapter is told of: what the base has under way stays.
    if (i == 3) link_.OnGateMessage(IpcType::kKnown, Encode(Known{{}, 1, 1}));
    if (i == 3) link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{adapter, 4, 4, false}));
  }
  EXPECT_EQ(back[adapter], 8 * kBlockBytes);
  EXPECT_EQ(back[base], 8 * kBlockBytes);
  const uint64_t refused = link_.refused();
  link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{Hash32{11}, 0, 8, true}));
  EXPECT_TRUE(
      Handed(link_.OnCoordinator(MessageType::kChunk, protocols::EncodeChunk({base, 8, block})))
          .empty())
      << "one part of a base at a time";
  EXPECT_EQ(link_.refused(), refused + 1);
}

TEST_F(LinkCoreTest, AGateThatIsStartedAnewHearsOfTheConnectionsBasesAgain) {
  link_.OnConnected(kSession);
  const Bytes base(900, 1), revoked(300, 2);
  link_.OnCoordinator(MessageType::kBase, base);
  link_.OnCoordinator(MessageType::kRevoke, revoked);
  link_.OnCoordinator(MessageType::kBase, Bytes(100'000, 3));  // no manifest is as large
  const auto again = Handed(link_.OnGateMessage(IpcType::kHello, Encode(IpcHello{5, false})));
  ASSERT_EQ(again.size(), 2u);
  EXPECT_EQ(again[0].kind, BulkKind::kBase);
  EXPECT_EQ(again[0].bytes, base);
  EXPECT_EQ(again[1].kind, BulkKind::kRevoke);
  EXPECT_EQ(again[1].bytes, revoked);
  for (int i = 0; i < 1000; ++i) link_.OnCoordinator(MessageType::kBase, base);
  EXPECT_EQ(Handed(link_.OnGateMessage(IpcType::kHello, Encode(IpcHello{6, false}))).size(), 128u);
  link_.OnConnected(kSession);
  EXPECT_TRUE(Handed(link_.OnGateMessage(IpcType::kHello, Encode(IpcHello{7, false}))).empty())
      << "the coordinator says them anew";
}

TEST_F(LinkCoreTest, AnAdaptersBlocksComeWithinTheWindowAndCreditGoesBack) {
  link_.OnConnected(kSession);
  const Hash32 adapter{9};
  LinkEffects out = link_.OnGateMessage(IpcType::kWantBlocks, Encode(WantBlocks{adapter, 0, 64}));
  EXPECT_EQ(*protocols::Decode<protocols::Want>(Said(out, MessageType::kWant).at(0)),
            (protocols::Want{adapter, 0, 64, transport::kWindowBytes}));
  const Bytes block(1000, 4);
  uint64_t back = 0;
  for (uint32_t i = 0; i < 64; ++i) {
    out = link_.OnCoordinator(MessageType::kChunk, protocols::EncodeChunk({adapter, i, block}));
    ASSERT_EQ(Handed(out).size(), 1u);
    EXPECT_EQ(Handed(out)[0].index, i);
    EXPECT_EQ(Handed(out)[0].bytes, block);
    for (const Bytes& credit : Said(out, MessageType::kCredit)) {
      back += protocols::Decode<protocols::Credit>(credit)->bytes;
    }
    ASSERT_LE(back, (i + 1) * kBlockBytes);
  }
  EXPECT_EQ(back, 64 * kBlockBytes);
  EXPECT_TRUE(
      link_.OnCoordinator(MessageType::kChunk, protocols::EncodeChunk({Hash32{8}, 0, block}))
          .empty())
      << "of a content that the gate did not ask for";
  EXPECT_EQ(link_.refused(), 1u);
}

TEST_F(LinkCoreTest, ARefusedOfferIsToldWithoutItsTextAndNotRepeated) {
  link_.OnConnected(kSession);
  Offer(update_);
  LinkEffects out;
  Error(Hash32{1}, MessageType::kOffer, Code::kAlreadyExists, &out);
  EXPECT_TRUE(out.empty()) << "not offered";
  Error(update_.manifest.content, MessageType::kChunk, Code::kDataLoss, &out);
  EXPECT_TRUE(out.empty()) << "not about the offer";
  for (const MessageType about : {MessageType::kOffer, MessageType::kCommit}) {
    Offer(update_);
    Error(update_.manifest.content, about, Code::kAlreadyExists, &out);
    const auto told = Told(out, IpcType::kOfferRefused);
    ASSERT_EQ(told.size(), 1u);
    ASSERT_EQ(out.size(), 1u);
    EXPECT_EQ(told[0].size(), 32u + 2u + 1u) << "no text";
    const auto refused = *protocols::Decode<OfferRefused>(told[0]);
    EXPECT_EQ(refused.content, update_.manifest.content);
    EXPECT_EQ(refused.about, static_cast<uint16_t>(about));
    EXPECT_EQ(refused.code, static_cast<uint8_t>(Code::kAlreadyExists));
    link_.OnDisconnected();
    EXPECT_TRUE(Said(link_.OnConnected(kSession), MessageType::kOffer).empty());
  }
}

TEST_F(LinkCoreTest, ACoordinatorThatLiesGetsNothing) {
  link_.OnConnected(kSession);
  Offer(update_);
  const Hash32 content = update_.manifest.content;
  const protocols::Want wants[] = {
      {Hash32{1}, 0, 1, kBlockBytes}, {content, 0, 22, kBlockBytes},
      {content, 21, 1, kBlockBytes},  {content, 0xffffffff, 2, kBlockBytes},
      {content, 0, 0, kBlockBytes},   {content, 0, 1, protocols::kMaxCreditBytes + 1}};
  for (const protocols::Want& want : wants) {
    link_.OnCoordinator(MessageType::kWant, Encode(want));
    EXPECT_TRUE(Pump().empty());
  }
  link_.OnCoordinator(MessageType::kCredit, Encode(protocols::Credit{content, ~0ull}));
  EXPECT_EQ(link_.refused(), std::size(wants) + 1);
  protocols::Have full{content, 21, {}};
  full.bitmap.items = {0xff, 0xff, 0x1f};
  protocols::Have lies[] = {full, full, full, full};
  lies[0].blocks = 20;
  lies[1].bitmap.items.push_back(0);
  lies[2].content[0] ^= 1;
  lies[3].bitmap.items = {0xff, 0xff, 0x0f};
  for (const protocols::Have& have : lies) {
    EXPECT_TRUE(link_.OnCoordinator(MessageType::kHave, Encode(have)).empty());
  }
  EXPECT_EQ(
      Said(link_.OnCoordinator(MessageType::kHave, Encode(full)), MessageType::kCommit).size(), 1u);
}

// Any bytes, from either side: nothing leaves that the gate did not hand over, nothing grows.
TEST_F(LinkCoreTest, NoBodyDoesHarm) {
  link_.OnConnected(kSession);
  Offer(update_);
  for (uint64_t step = 0; step < 6000; ++step) {
    const auto w = RandomWords(11, RngPurpose::kTest, 0, step);
    Bytes body(w[0] % 120);
    for (size_t i = 0; i < body.size(); ++i) {
      body[i] = static_cast<uint8_t>(RandomWords(11, RngPurpose::kTest, 1, step * 128 + i)[0]);
    }
    // Half of them begin with the content that is offered.
    if (w[1] % 2 == 0 && body.size() >= 32) {
      std::copy_n(update_.manifest.content.begin(), 32, body.begin());
    }
    LinkEffects out;
    if (w[2] % 2 == 0) {
      out = link_.OnCoordinator(static_cast<MessageType>(w[2] / 2 % 16), body);
    } else if (w[3] % 2 == 0) {
      out = link_.OnGateMessage(static_cast<IpcType>(2 + w[3] / 2 % 13), body);
    } else {
      out = link_.OnGateBulk(static_cast<BulkKind>(w[3] / 2 % 11), update_.manifest.content,
                             w[0] % 30, body);
    }
    link_.Pump(&out);
    ASSERT_LE(out.size(), 8u);
    EXPECT_TRUE(Said(out, MessageType::kOffer).empty());
    EXPECT_TRUE(Said(out, MessageType::kChunk).size() <= 1);
  }
}

}  // namespace
}  // namespace tidegate::onshore
