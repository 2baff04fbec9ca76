// Bases at the gate: what is believed of them, what is fetched and when, and what a revocation
// does.
#include <gtest/gtest.h>

#include "base/file.h"
#include "bases/index.h"
#include "gate_core_fixture.h"
#include "protocols/bases.h"

namespace tidegate::onshore {
namespace {

constexpr int64_t kNow = 1795581436000;

class BaseIntakeTest : public GateCoreTest {
 protected:
  // A base of one file: two whole blocks and a short one.
  protocols::BaseManifest Base(uint32_t version) {
    protocols::BaseIndex index;
    const Bytes file = FileOf(version);
    index.files.items = {{"config.json", file.size()}};
    for (size_t at = 0; at < file.size(); at += protocols::kBlockBytes) {
      const auto block =
          ByteSpan(file).subspan(at, std::min<size_t>(protocols::kBlockBytes, file.size() - at));
      const Digest id = blocks::BlockId(block);
      blocks_[id] = Bytes(block.begin(), block.end());
      index.blocks.items.push_back({id, static_cast<uint32_t>(block.size())});
    }
    protocols::BaseManifest m;
    m.federation = gate::Federation();
    m.name = "smol";
    m.version = version;
    m.created_unix_millis = kNow;
    m.expires_unix_millis = kNow + 1000;
    m.base_hash = job_.base_hash;
    m.base_bytes = file.size();
    m.index = *bases::PutList(protocols::Encode(index), [this](const Digest& id, ByteSpan block) {
      blocks_[id] = Bytes(block.begin(), block.end());
      return OkStatus();
    });
    if (version > 1) m.previous = crypto::Sha256::Of(protocols::Encode(Base(version - 1)));
    data_[version] = bases::IdsOf(index);
    return m;
  }
  static Bytes FileOf(uint32_t version) {
    Bytes file(2 * protocols::kBlockBytes + 1000);
    for (size_t i = 0; i < file.size(); ++i) file[i] = static_cast<uint8_t>(i / 999 + version);
    return file;
  }
  GateEffects Tell(const protocols::BaseManifest& m) {
    return Bulk(To::kLink, BulkKind::kBase, Sign(crypto::domains::kBase, m));
  }
  GateEffects Revoke(uint32_t version) {
    const protocols::BaseRevocation notice{gate::Federation(), "smol", version,
                                           job_.base_hash,     kNow,   "wrong"};
    return Bulk(To::kLink, BulkKind::kRevoke, Sign(crypto::domains::kBaseRevocation, notice));
  }
  void Wish(const std::string& name) {
    ASSERT_TRUE(WriteFileDurably(dir_ / "bases" / "wanted" / name, {}).ok());
  }
  std::string Answer(const std::string& name) const {
    return ReadTextFile(dir_ / "bases" / "answers" / name, 4096).value_or("none");
  }
  GateEffects Tick() { return *core_->OnTick(); }
  void StartConnected() {
    Start(false);
    core_->OnLinkState(true).value();
  }
  static std::vector<WantBlocks> Wants(const GateEffects& effects) {
    std::vector<WantBlocks> wants;
    for (const GateEffect& e : effects) {
      const auto* m = std::get_if<SendMessage>(&e);
      if (m == nullptr || m->type != IpcType::kWantBlocks) continue;
      wants.push_back(*protocols::Decode<WantBlocks>(m->body));
      EXPECT_TRUE(wants.back().base);
    }
    return wants;
  }
  GateEffects Give(std::span<const Digest> content, uint32_t index) {
    return Bulk(To::kLink, BulkKind::kBlock, blocks_.at(content[index]), blocks::ContentId(content),
                index);
  }
  size_t Stored() const {
    size_t files = 0;
    for (const auto& entry : fs::recursive_directory_iterator(dir_ / "bases" / "blocks")) {
      files += entry.is_regular_file();
    }
    return files;
  }

  std::map<Digest, Bytes> blocks_;
  std::map<uint32_t, std::vector<Digest>> data_;
};

TEST_F(BaseIntakeTest, NothingIsFetchedUntilItIsWishedAndThenTheIndexFirst) {
  StartConnected();
  const auto m = Base(1);
  EXPECT_TRUE(Wants(Tell(m)).empty());
  EXPECT_TRUE(Wants(Tick()).empty());
  Wish("smol@1.full");
  const auto index = Wants(Tick());
  ASSERT_EQ(index.size(), 1u);
  EXPECT_EQ(index[0].content, blocks::ContentId(m.index.blocks.items));
  EXPECT_TRUE(Wants(Tick()).empty()) << "said once";
  const auto data = Wants(Give(m.index.blocks.items, 0));
  ASSERT_EQ(data.size(), 1u);
  EXPECT_EQ(data[0].content, blocks::ContentId(data_[1]));
  EXPECT_EQ(data[0].count, 3u);
  for (uint32_t i : {2u, 0u, 0u, 1u}) Give(data_[1], i);  // any order, and twice
  EXPECT_EQ(Answer("smol@1.full"), "done\n");
  EXPECT_EQ(Stored(), 4u);
  // Installed, or no longer wanted: its blocks go.
  fs::remove(dir_ / "bases" / "wanted" / "smol@1.full");
  Tick();
  EXPECT_EQ(Stored(), 0u);
  EXPECT_EQ(Answer("smol@1.full"), "none");
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 0);
}

TEST_F(BaseIntakeTest, APullGoesOnAfterARestartAndAReconnect) {
  StartConnected();
  const auto m = Base(1);
  Tell(m);
  Wish("smol@1.full");
  Tick();
  Give(m.index.blocks.items, 0);
  Give(data_[1], 1);
  // A cut: what is missing is asked for again.
  core_->OnLinkState(false).value();
  auto wants = Wants(*core_->OnLinkState(true));
  ASSERT_EQ(wants.size(), 2u);
  EXPECT_EQ(wants[0].first, 0u);
  EXPECT_EQ(wants[1].first, 2u);
  Give(data_[1], 0);
  // A gate that is killed loses what was not yet synced, and no more.
  core_.reset();
  Start(false);
  wants = Wants(*core_->OnLinkState(true));
  ASSERT_FALSE(wants.empty());
  if (wants[0].content == blocks::ContentId(m.index.blocks.items)) Give(m.index.blocks.items, 0);
  for (uint32_t i = 0; i < 3; ++i) Give(data_[1], i);
  EXPECT_EQ(Answer("smol@1.full"), "done\n");
}

TEST_F(BaseIntakeTest, AFlippedBitInAManifestOrABlockIsRefused) {
  StartConnected();
  const auto m = Base(1);
  const Bytes good = Sign(crypto::domains::kBase, m);
  for (size_t at = 4; at < good.size(); at += 7) {
    Bytes bad = good;
    bad[at] ^= 1;
    Bulk(To::kLink, BulkKind::kBase, bad);
  }
  EXPECT_NE(LastRefusal().find("rule=signature"), std::string::npos) << LastRefusal();
  Wish("smol@1.full");
  EXPECT_TRUE(Wants(Tick()).empty());
  EXPECT_NE(Answer("smol@1.full").find("refused: no base smol@1 is known"), std::string::npos);
  fs::remove(dir_ / "bases" / "wanted" / "smol@1.full");
  Tick();

  Tell(m);
  Wish("smol@1.full");
  Tick();
  for (const auto& content : {m.index.blocks.items, data_[1]}) {
    for (uint32_t i = 0; i < content.size(); ++i) {
      Bytes& block = blocks_.at(content[i]);
      block[block.size() / 2] ^= 0x10;
      Give(content, i);
      EXPECT_NE(LastRefusal().find("rule=block"), std::string::npos);
      block[block.size() / 2] ^= 0x10;
      Give(content, i);
    }
  }
  EXPECT_EQ(Answer("smol@1.full"), "done\n");
}

TEST_F(BaseIntakeTest, ACoordinatorThatSendsOtherBlocksIsGivenUp) {
  StartConnected();
  const auto m = Base(1);
  Tell(m);
  Wish("smol@1.full");
  Tick();
  for (int i = 0; i < 16; ++i) {
    Bulk(To::kLink, BulkKind::kBlock, Bytes(10, 1), blocks::ContentId(m.index.blocks.items), 0);
  }
  EXPECT_NE(Answer("smol@1.full").find("refused: the coordinator sent other blocks"),
            std::string::npos);
}

TEST_F(BaseIntakeTest, WhatIsNotPinnedHasExpiredOrWasRevokedIsNotFetched) {
  StartConnected();
  auto m = Base(1);
  m.base_hash[0] ^= 1;
  Tell(m);
  Wish("smol@1.full");
  EXPECT_TRUE(Wants(Tick()).empty());
  EXPECT_NE(Answer("smol@1.full").find("not in the policy's jobs.base_hashes"), std::string::npos);
  m = Base(2);
  m.previous = crypto::Sha256::Of(protocols::Encode([&] {
    auto first = Base(1);
    first.base_hash[0] ^= 1;
    return first;
  }()));
  Tell(m);
  clock_.Advance(1000);
  Wish("smol@2.full");
  EXPECT_TRUE(Wants(Tick()).empty());
  EXPECT_NE(Answer("smol@2.full").find("it expired at"), std::string::npos);
  Revoke(2);
  Wish("smol@2.patch");
  EXPECT_TRUE(Wants(Tick()).empty());
  EXPECT_NE(Answer("smol@2.patch").find("revoked"), std::string::npos);
}

TEST_F(BaseIntakeTest, VersionsOnlyGrowOverRestartsTooAndFollowFromEachOther) {
  StartConnected();
  Tell(Base(2));
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 0) << "the first that is heard of may be any";
  Start(false);
  Tell(Base(1));
  EXPECT_NE(LastRefusal().find("version 1 of smol is not above 2"), std::string::npos);
  auto other = Base(2);
  other.licence = "another";
  Tell(other);
  EXPECT_NE(LastRefusal().find("another document of smol@2"), std::string::npos);
  auto third = Base(3);
  third.previous[5] ^= 1;
  Tell(third);
  EXPECT_NE(LastRefusal().find("does not follow"), std::string::npos);
  auto strange = Base(3);
  strange.federation[0] ^= 1;
  Tell(strange);
  EXPECT_NE(LastRefusal().find("rule=federation"), std::string::npos);
  const int refusals = Leaves(gate::LeafType::kRefusal);
  Tell(Base(3));
  Tell(Base(3));
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), refusals);
}

TEST_F(BaseIntakeTest, ARevokedBaseEndsItsJobAndIsRefusedForTheNext) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const GateEffects effects = Revoke(1);
  EXPECT_NE(MessageOf(effects, IpcType::kStop), nullptr) << "the trainer";
  EXPECT_TRUE(Tells(effects, ControlType::kJobEnded));
  for (int i = 0; i < 2; ++i) {
    Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
    EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0) << "nothing of it leaves";
    job_.seed += 1;
    const GateEffects again = Bulk(To::kLink, BulkKind::kJob, JobBytes());
    EXPECT_FALSE(Tells(again, ControlType::kNeedTrainer));
    EXPECT_NE(LastRefusal().find("revoked its base"), std::string::npos);
    Start();
  }
}

}  // namespace
}  // namespace tidegate::onshore
