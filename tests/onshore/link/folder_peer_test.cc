// The folder in the place of the coordinator, with a real LinkCore before it and a gate that the
// test plays.
#include "onshore/link/folder_peer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <deque>
#include <fstream>

#include "onshore/link/link_core.h"
#include "tests/onshore/link/samples.h"

namespace tidegate::onshore {
namespace {

namespace fs = std::filesystem;
using airgap::Message;
using protocols::MessageType;

class FolderPeerTest : public testing::Test {
 protected:
  FolderPeerTest() {
    std::string made = (fs::temp_directory_path() / "tidegate-peer-XXXXXX").native();
    EXPECT_NE(::mkdtemp(made.data()), nullptr);
    dir_ = made;
    Restart();
  }
  ~FolderPeerTest() override { fs::remove_all(dir_); }

  airgap::Folder Folder() { return *airgap::Folder::Open(dir_, "FOLDER"); }
  // A carrier that was started again.
  void Restart() {
    peer_.emplace(Folder(), SampleFederation(), "north", coordinator_.verify_key());
    link_.emplace(site_key_.verify_key(), SampleFederation(), "north");
    Status status = Apply(link_->OnConnected(1));
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  // What link does and what comes of it, until nothing is left; blocks of `updates_` are given when
  // they are asked for, at most `blocks_` of them.
  Status Apply(const LinkEffects& effects) {
    std::deque<LinkEffect> todo(effects.begin(), effects.end());
    for (;;) {
      if (todo.empty()) {
        LinkEffects more;
        link_->Pump(&more);
        auto chunk = peer_->NextChunk();
        if (!chunk) return chunk.error();
        if (*chunk) {
          const auto fed = link_->OnCoordinator((*chunk)->type, (*chunk)->body);
          more.insert(more.end(), fed.begin(), fed.end());
        }
        todo.insert(todo.end(), more.begin(), more.end());
        if (todo.empty()) return OkStatus();
      }
      const LinkEffect effect = std::move(todo.front());
      todo.pop_front();
      LinkEffects more;
      if (const auto* said = std::get_if<permit::Outbound>(&effect)) {
        const auto answers = peer_->On(*said);
        if (!answers) return answers.error();
        for (const Message& answer : *answers) {
          const auto fed = link_->OnCoordinator(answer.type, answer.body);
          more.insert(more.end(), fed.begin(), fed.end());
        }
      } else if (const auto* bulk = std::get_if<BulkToGate>(&effect)) {
        to_gate_.push_back(*bulk);
      } else if (const auto& told = std::get<ToGate>(effect); told.type == IpcType::kNeedBlock) {
        const auto need = *protocols::Decode<NeedBlock>(told.body);
        for (const SampleUpdate* update : updates_) {
          if (update->manifest.content != need.content || blocks_ == 0) continue;
          --blocks_;
          asked_.push_back(need.index);
          more = link_->OnGateBulk(BulkKind::kBlock, need.content, need.index,
                                   update->blocks[need.index]);
          break;
        }
      }
      todo.insert(todo.end(), more.begin(), more.end());
    }
  }
  Status Offer(const SampleUpdate& update) {
    asked_.clear();
    updates_.push_back(&update);
    return Apply(link_->OnGateBulk(BulkKind::kOffer, update.manifest.content, 0, update.offer));
  }
  static fs::path FileOf(const SampleUpdate& update) {
    const airgap::Place place = airgap::OfferPlace(update.manifest.key);
    return fs::path(place[0]) / place[1] / place[2];
  }
  fs::path PathOf(const Digest& id) const {
    const std::string hex = ToHex(id);
    return dir_ / "blocks" / hex.substr(0, 2) / hex.substr(2);
  }
  // As the exchange writes it; what it is called only orders it.
  template <typename Document>
  void PutDown(const std::string& name, MessageType type, crypto::SignDomain domain,
               const Document& document, const protocols::Id16& federation = SampleFederation()) {
    auto folder = Folder();
    ASSERT_TRUE(airgap::WriteMessage(folder, {"down", "north", name}, federation,
                                     {type, protocols::Encode(*crypto::SignDocument(
                                                coordinator_, domain, document))})
                    .ok());
  }
  void PutReceipt(const std::string& name, const SampleUpdate& update,
                  const std::string& site = "north") {
    protocols::Receipt receipt;
    receipt.federation = SampleFederation();
    receipt.key = update.manifest.key;
    receipt.key.site = site;
    receipt.content = update.manifest.content;
    PutDown(name, MessageType::kReceipt, crypto::domains::kReceipt, receipt);
  }

  fs::path dir_;
  crypto::SigningKey site_key_ = *crypto::SigningKey::Generate();
  crypto::SigningKey coordinator_ = *crypto::SigningKey::Generate();
  SampleUpdate update_{site_key_, 5 * protocols::kBlockBytes + 100, 1};
  std::optional<FolderPeer> peer_;
  std::optional<LinkCore> link_;
  std::vector<const SampleUpdate*> updates_;
  std::vector<BulkToGate> to_gate_;
  std::vector<uint32_t> asked_;
  size_t blocks_ = SIZE_MAX;
};

TEST_F(FolderPeerTest, AnUpdateIsInTheFolderAsAWholeOrNotAtAll) {
  blocks_ = 4;
  ASSERT_TRUE(Offer(update_).ok());
  EXPECT_TRUE(peer_->busy());
  EXPECT_FALSE(fs::exists(dir_ / FileOf(update_)));
  // Started again it goes on with the blocks that are not there.
  Restart();
  blocks_ = SIZE_MAX;
  ASSERT_TRUE(Offer(update_).ok());
  EXPECT_FALSE(peer_->busy());
  EXPECT_EQ(asked_, (std::vector<uint32_t>{4, 5}));
  const auto folder = Folder();
  const auto message =
      airgap::ReadMessage(folder, airgap::OfferPlace(update_.manifest.key), SampleFederation());
  ASSERT_TRUE(message.has_value()) << message.error().ToString();
  EXPECT_EQ(message->type, MessageType::kOffer);
  EXPECT_EQ(message->body, update_.offer);
  for (size_t i = 0; i < update_.blocks.size(); ++i) {
    EXPECT_EQ(*folder.Block(update_.manifest.blocks.items[i]), update_.blocks[i]) << i;
  }
  // Once more: nothing is asked for, nothing changes.
  Restart();
  ASSERT_TRUE(Offer(update_).ok());
  EXPECT_TRUE(asked_.empty());
  EXPECT_EQ(peer_->offers(), 1u);
}

TEST_F(FolderPeerTest, ABlockThatTheMediumHasDamagedIsWrittenAgain) {
  ASSERT_TRUE(Offer(update_).ok());
  std::ofstream(PathOf(update_.manifest.blocks.items[2]), std::ios::binary) << "damaged";
  Restart();
  ASSERT_TRUE(Offer(update_).ok());
  EXPECT_EQ(asked_, std::vector<uint32_t>{2});
  EXPECT_EQ(*Folder().Block(update_.manifest.blocks.items[2]), update_.blocks[2]);
}

TEST_F(FolderPeerTest, WhatHasItsReceiptIsNotCarriedAgainAndItsFileGoes) {
  const SampleUpdate other(site_key_, 1000, 2);
  ASSERT_TRUE(Offer(update_).ok());
  ASSERT_TRUE(Offer(other).ok());
  auto folder = Folder();
  ASSERT_TRUE(folder.Write({"up", "south", "theirs.offer"}, AsBytes("theirs")).ok());
  PutReceipt("0001-receipt", update_);
  for (const Digest& id : update_.manifest.blocks.items) ASSERT_TRUE(folder.RemoveBlock(id).ok());
  Restart();
  ASSERT_EQ(peer_->Documents()->size(), 1u);
  ASSERT_TRUE(Offer(update_).ok());
  EXPECT_TRUE(asked_.empty());
  ASSERT_TRUE(std::any_of(to_gate_.begin(), to_gate_.end(), [](const BulkToGate& bulk) {
    return bulk.kind == BulkKind::kReceipt;
  })) << "the gate gets it";
  ASSERT_TRUE(Offer(other).ok());
  ASSERT_TRUE(peer_->Finish().ok());
  EXPECT_FALSE(fs::exists(dir_ / FileOf(update_)));
  EXPECT_TRUE(fs::exists(dir_ / FileOf(other)));
  EXPECT_TRUE(fs::exists(dir_ / "up/south/theirs.offer"));
  const auto lease = airgap::ReadMessage(folder, airgap::LeasePlace("north"), SampleFederation());
  ASSERT_TRUE(lease.has_value()) << lease.error().ToString();
  EXPECT_TRUE(protocols::Decode<protocols::Lease>(lease->body).has_value());
}

TEST_F(FolderPeerTest, WhatTheGateDidNotSignIsNotPutThere) {
  const auto stranger = *crypto::SigningKey::Generate();
  const SampleUpdate forged(stranger, 1000, 3);
  ASSERT_TRUE(Offer(forged).ok());
  const SampleUpdate elsewhere(site_key_, 1000, 4, "south");
  ASSERT_TRUE(Offer(elsewhere).ok());
  EXPECT_EQ(link_->refused(), 2u);
  EXPECT_TRUE(Folder().Blocks()->empty());
  EXPECT_FALSE(fs::exists(dir_ / "up" / "north"));
  EXPECT_FALSE(fs::exists(dir_ / "up" / "south"));
}

TEST_F(FolderPeerTest, DocumentsComeInTheOrderOfTheirNamesAndWhatIsNotTheCoordinatorsStaysOut) {
  protocols::JobManifest job;
  job.name = "job";
  protocols::AbandonNotice notice;
  notice.reason = protocols::AbandonReason::kStopped;
  PutDown("0002-job", MessageType::kJob, crypto::domains::kJob, job);
  PutReceipt("0001-receipt", update_);
  PutDown("0003-abandon", MessageType::kAbandon, crypto::domains::kAbandon, notice);
  const fs::path down = dir_ / "down" / "north";
  auto theirs = SampleFederation();
  theirs[0] = 99;
  PutDown("0004-foreign", MessageType::kJob, crypto::domains::kJob, job, theirs);
  PutDown("0005-domain", MessageType::kRound, crypto::domains::kJob, job);
  PutReceipt("0006-south", update_, "south");
  fs::create_symlink(down / "0002-job", down / "0007-link");
  fs::create_directory(down / "0008-folder");
  fs::copy(down / "0002-job", down / "0009-cut");
  fs::resize_file(down / "0009-cut", fs::file_size(down / "0009-cut") - 1);
  fs::copy(dir_ / "down/north/0002-job", down / "0010-half.tmp");
  auto folder = Folder();
  ASSERT_TRUE(airgap::WriteMessage(folder, {"down", "north", "0011-offer"}, SampleFederation(),
                                   {MessageType::kOffer, update_.offer})
                  .ok());
  const auto stranger = *crypto::SigningKey::Generate();
  ASSERT_TRUE(airgap::WriteMessage(folder, {"down", "north", "0012-forged"}, SampleFederation(),
                                   {MessageType::kJob, protocols::Encode(*crypto::SignDocument(
                                                           stranger, crypto::domains::kJob, job))})
                  .ok());
  std::ofstream(down / "0013-garbage") << "garbage";
  const auto documents = peer_->Documents();
  ASSERT_TRUE(documents.has_value()) << documents.error().ToString();
  std::vector<MessageType> types;
  for (const Message& message : *documents) types.push_back(message.type);
  EXPECT_EQ(types, (std::vector<MessageType>{MessageType::kReceipt, MessageType::kJob,
                                             MessageType::kAbandon}));
  EXPECT_EQ(peer_->refused(), 9u);
  ASSERT_TRUE(peer_->Documents().has_value());
  EXPECT_EQ(peer_->refused(), 9u) << "each is said once";
}

TEST_F(FolderPeerTest, MoreFilesThanMayComeAreAnError) {
  for (size_t i = 0; i <= protocols::kMaxFolderMessages; ++i) {
    fs::create_directories(dir_ / "down" / "north");
    std::ofstream(dir_ / "down" / "north" / std::to_string(i)) << "x";
  }
  EXPECT_EQ(peer_->Documents().error().code(), Code::kResourceExhausted);
}

TEST_F(FolderPeerTest, AnAdaptersBlocksComeWithinTheCreditAndAsTheirNamesSay) {
  const SampleUpdate adapter(site_key_, 3 * protocols::kBlockBytes, 9);  // bytes in blocks
  protocols::AdapterManifest manifest;
  manifest.content = adapter.manifest.content;
  manifest.content_bytes = adapter.bytes.size();
  manifest.blocks = adapter.manifest.blocks;
  PutDown("0001-adapter", MessageType::kAdapter, crypto::domains::kAdapter, manifest);
  auto folder = Folder();
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(folder.PutBlock(manifest.blocks.items[i], adapter.blocks[i]).ok());
  }
  ASSERT_EQ(peer_->Documents()->size(), 1u);
  const auto want = [&](uint32_t first, uint32_t count) {
    return Apply(link_->OnGateMessage(
        IpcType::kWantBlocks, protocols::Encode(WantBlocks{manifest.content, first, count})));
  };
  ASSERT_TRUE(want(0, 3).ok());
  std::vector<uint32_t> came;
  for (const BulkToGate& bulk : to_gate_) {
    if (bulk.kind != BulkKind::kBlock) continue;
    came.push_back(bulk.index);
    EXPECT_EQ(bulk.bytes, adapter.blocks[bulk.index]);
  }
  EXPECT_EQ(came, (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_FALSE(peer_->lacks_adapter());
  std::ofstream(PathOf(manifest.blocks.items[1]), std::ios::binary) << "damaged";
  EXPECT_EQ(want(1, 1).code(), Code::kDataLoss);
  fs::remove(PathOf(manifest.blocks.items[1]));
  Restart();
  ASSERT_EQ(peer_->Documents()->size(), 1u);
  const Status missing = want(1, 1);
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_NE(missing.message().find("make the exchange once more"), std::string::npos);
  // An adapter that no file names.
  Restart();
  ASSERT_TRUE(want(1, 1).ok());
  EXPECT_TRUE(peer_->lacks_adapter());
}

TEST_F(FolderPeerTest, AnAdapterThatNamesOtherBlocksForAContentIsLeftOut) {
  const SampleUpdate adapter(site_key_, 3 * protocols::kBlockBytes, 9);  // bytes in blocks
  protocols::AdapterManifest manifest;
  manifest.content = adapter.manifest.content;
  manifest.content_bytes = adapter.bytes.size();
  manifest.blocks = adapter.manifest.blocks;
  PutDown("0001-adapter", MessageType::kAdapter, crypto::domains::kAdapter, manifest);
  auto folder = Folder();
  ASSERT_TRUE(folder.PutBlock(manifest.blocks.items[2], adapter.blocks[2]).ok());
  ASSERT_EQ(peer_->Documents()->size(), 1u);
  // Asked for before the other file is read, sent after.
  const protocols::Want last{manifest.content, 2, 1, 2 * protocols::kBlockBytes};
  ASSERT_TRUE(peer_->On(permit::Outbound::Say(last)).has_value());
  manifest.blocks.items.resize(1);
  PutDown("0002-adapter", MessageType::kAdapter, crypto::domains::kAdapter, manifest);
  EXPECT_EQ(peer_->Documents()->size(), 1u);
  EXPECT_EQ(peer_->refused(), 1u);
  const auto chunk = peer_->NextChunk();
  ASSERT_TRUE(chunk.has_value() && chunk->has_value());
  EXPECT_EQ(protocols::DecodeChunk((**chunk).body)->index, 2u);
}

// A file size limit stands in for a medium that is full.
TEST_F(FolderPeerTest, AFullMediumIsAnErrorAndLeavesNoOffer) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{protocols::kBlockBytes / 2, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const Status status = Offer(update_);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old);
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(fs::exists(dir_ / FileOf(update_)));
  Restart();
  ASSERT_TRUE(Offer(update_).ok());
  EXPECT_TRUE(fs::exists(dir_ / FileOf(update_)));
}

}  // namespace
}  // namespace tidegate::onshore
