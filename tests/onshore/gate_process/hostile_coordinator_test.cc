// Adapters, receipts and refusals of a coordinator that is not honest, or not ours.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "gate_core_fixture.h"
#include "protocols/header.h"

namespace tidegate::onshore {
namespace {

class HostileCoordinator : public GateCoreTest {
 protected:
  // A gate with a job, adapter version 1 whole, and a trainer.
  void StartWithVersionOne() {
    Start();
    Bulk(To::kLink, BulkKind::kJob, JobBytes());
    GiveAdapter(AdapterOf(1));
    ASSERT_NE(BulkOf(GiveBlock(1), BulkKind::kParameters), nullptr);
  }
  GateEffects GiveAdapter(const protocols::AdapterManifest& adapter) {
    return Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, adapter));
  }
  // Version 2 with these parameters: the manifest and the one block that it names.
  GateEffects GiveParameters(const Bytes& parameters) {
    protocols::AdapterManifest adapter = AdapterOf(2);
    adapter.blocks.items = {blocks::BlockId(parameters)};
    adapter.content = blocks::ContentId(adapter.blocks.items);
    GateEffects all = GiveAdapter(adapter);
    Add(&all, core_->OnBulk(To::kLink, BulkKind::kBlock, adapter.content, 0, parameters));
    return all;
  }
  // Nothing of it reached the trainer or the disk, now and after a restart.
  void ExpectVersionOne(const GateEffects& effects) {
    EXPECT_EQ(BulkOf(effects, BulkKind::kParameters), nullptr);
    EXPECT_EQ(MessageOf(effects, IpcType::kWantBlocks), nullptr) << "not even asked for";
    const GateEffects again = Start();
    const SendBulkTo* parameters = BulkOf(again, BulkKind::kParameters);
    ASSERT_NE(parameters, nullptr);
    EXPECT_EQ(parameters->index, 1u);
    EXPECT_EQ(parameters->bytes, ParametersOf(1));
  }
};

TEST_F(HostileCoordinator, AnAdapterThatIsNotTheJobsNextIsRefusedByName) {
  StartWithVersionOne();
  using Adapter = protocols::AdapterManifest;
  const struct {
    const char* what;
    const char* rule;
    std::function<void(Adapter&)> spoil;
  } cases[] = {
      {"another base", "base", [](Adapter& a) { a.base_hash[0] ^= 1; }},
      {"another layout", "layout", [](Adapter& a) { a.layout_digest[0] ^= 1; }},
      {"an older version", "version", [](Adapter& a) { a.version = 0; }},
      {"the same version, other content", "version", [](Adapter& a) { a.version = 1; }},
      {"a version beyond the job's rounds", "layout", [](Adapter& a) { a.version = 4; }},
      {"fewer values than the layout", "layout", [](Adapter& a) { a.content_bytes -= 4; }},
      {"more values than the layout", "layout", [](Adapter& a) { a.content_bytes = 1ull << 40; }},
      {"no block", "layout", [](Adapter& a) { a.blocks.items.clear(); }},
      {"a block too many", "layout", [](Adapter& a) { a.blocks.items.push_back({}); }},
      {"blocks that are not the content's", "layout", [](Adapter& a) { a.content[0] ^= 1; }},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    Adapter adapter = AdapterOf(2);
    c.spoil(adapter);
    const GateEffects effects = GiveAdapter(adapter);
    EXPECT_NE(LastRefusal().find("what=adapter"), std::string::npos) << LastRefusal();
    EXPECT_NE(LastRefusal().find(std::string("rule=") + c.rule), std::string::npos)
        << LastRefusal();
    ExpectVersionOne(effects);
  }
  GiveAdapter(AdapterOf(2));
  EXPECT_NE(BulkOf(GiveBlock(2), BulkKind::kParameters), nullptr) << "the honest one is taken";
}

// Nothing could be sealed to it: the gate would end over every update of the round, again and
// again.
TEST_F(HostileCoordinator, ARoundWhoseRecipientIsOfSmallOrderIsRefusedAndTheNextOneRuns) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  protocols::RoundAnnouncement round = RoundOf(1);
  for (const uint8_t first : {0, 1}) {
    round.recipient = {first};
    const GateEffects effects =
        Bulk(To::kLink, BulkKind::kRound, Sign(crypto::domains::kRound, round));
    EXPECT_EQ(MessageOf(effects, IpcType::kRoundStart), nullptr);
    EXPECT_NE(LastRefusal().find("rule=recipient"), std::string::npos) << LastRefusal();
  }
  OpenRound(1);
  EXPECT_NE(BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)), BulkKind::kOffer), nullptr);
}

TEST_F(HostileCoordinator, AnAdapterThatThePinnedKeyDidNotSignAsOneIsRefused) {
  StartWithVersionOne();
  protocols::Signed changed =
      *crypto::SignDocument(CoordinatorKey(), crypto::domains::kAdapter, AdapterOf(2));
  changed.body.items[20] ^= 1;
  const protocols::Signed wrong[] = {
      changed, *crypto::SignDocument(SiteKey(), crypto::domains::kAdapter, AdapterOf(2)),
      *crypto::SignDocument(CoordinatorKey(), crypto::domains::kRound, AdapterOf(2))};
  for (const protocols::Signed& document : wrong) {
    const GateEffects effects = Bulk(To::kLink, BulkKind::kAdapter, protocols::Encode(document));
    EXPECT_NE(LastRefusal().find("rule=signature"), std::string::npos) << LastRefusal();
    ExpectVersionOne(effects);
  }
}

// Its coordinator may serve two federations with one key: a document of the other is not ours.
TEST_F(HostileCoordinator, DocumentsOfAnotherFederationAreRefusedOrDropped) {
  StartWithVersionOne();
  const protocols::JobManifest ours = job_;
  job_.federation[0] ^= 1;
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  EXPECT_NE(LastRefusal().find("rule=coordinator"), std::string::npos) << LastRefusal();
  const protocols::Id16 id = std::exchange(id_, gate::IdOf(job_));
  const GateEffects effects = GiveAdapter(AdapterOf(2));
  EXPECT_TRUE(effects.empty());
  EXPECT_TRUE(Bulk(To::kLink, BulkKind::kRound, Sign(crypto::domains::kRound, RoundOf(2))).empty());
  job_ = ours;
  id_ = id;
  ExpectVersionOne(effects);
}

TEST_F(HostileCoordinator, ParametersThatAreNoNumbersOfTheGridAreRefusedAndNeverReachTheTrainer) {
  const float values[] = {std::numeric_limits<float>::quiet_NaN(),
                          -std::numeric_limits<float>::infinity(),
                          4.0f,
                          -3e38f,
                          1e-45f,
                          0x1p-29f};
  for (const float value : values) {
    SCOPED_TRACE(value);
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    StartWithVersionOne();
    Bytes parameters = ParametersOf(2);
    std::memcpy(parameters.data() + 4 * 599, &value, sizeof(value));
    const GateEffects effects = GiveParameters(parameters);
    EXPECT_EQ(BulkOf(effects, BulkKind::kParameters), nullptr);
    EXPECT_NE(LastRefusal().find("rule=parameters"), std::string::npos) << LastRefusal();
    EXPECT_EQ(MessageOf(*core_->OnLinkState(true), IpcType::kWantBlocks), nullptr)
        << "not asked for again";
    EXPECT_EQ(BulkOf(Start(), BulkKind::kParameters), nullptr);
    GiveAdapter(AdapterOf(3));
    EXPECT_NE(BulkOf(GiveBlock(3), BulkKind::kParameters), nullptr) << "a good one follows";
  }
}

TEST_F(HostileCoordinator, ARefusedLastAdapterEndsTheJobAllTheSame) {
  StartWithVersionOne();
  Bytes parameters = ParametersOf(3);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(parameters.data(), &nan, sizeof(nan));
  protocols::AdapterManifest adapter = AdapterOf(3);
  ASSERT_TRUE(adapter.final);
  adapter.blocks.items = {blocks::BlockId(parameters)};
  adapter.content = blocks::ContentId(adapter.blocks.items);
  GiveAdapter(adapter);
  GateEffects effects;
  Add(&effects, core_->OnBulk(To::kLink, BulkKind::kBlock, adapter.content, 0, parameters));
  EXPECT_TRUE(Tells(effects, ControlType::kJobEnded));
  EXPECT_NE(MessageOf(effects, IpcType::kStop), nullptr);
}

// A receipt is what an auditor holds against the ledger: with a head that is none of this ledger's
// it would say that the site has rewritten it.
TEST_F(HostileCoordinator, AReceiptWithAHeadThatIsNoneOfThisLedgersIsRefused) {
  Start();
  const std::string before = core_->ledger().head();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const auto manifest =
      ManifestIn(*BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)), BulkKind::kOffer));
  const auto with_head = [&](const std::string& head) {
    protocols::Receipt receipt;
    receipt.federation = gate::Federation();
    receipt.key = manifest.key;
    receipt.content = manifest.content;
    receipt.ledger_head = head;
    return Sign(crypto::domains::kReceipt, receipt);
  };
  const uint64_t size = core_->ledger().size();
  const std::string origin = gate::LedgerOrigin(gate::Federation(), "north");
  const auto note = [&](const std::string& of, uint64_t leaves, const crypto::SigningKey& key) {
    return *crypto::SignCheckpoint({of, leaves, Digest{}}, "north", key);
  };
  for (const std::string& head :
       {before, std::string("not a note"), note(origin, size, SiteKey()),
        note(origin, size + 1, SiteKey()), note("tidegate/other/north", size, SiteKey()),
        note(origin, size, CoordinatorKey())}) {
    Bulk(To::kLink, BulkKind::kReceipt, with_head(head));
    EXPECT_EQ(Leaves(gate::LeafType::kReceipt), 0) << head;
    EXPECT_NE(LastRefusal().find("rule=head"), std::string::npos) << head << LastRefusal();
    EXPECT_FALSE(fs::exists(dir_ / "receipts" / (GateSpool::NameOf(manifest.key) + ".receipt")));
  }
  EXPECT_NE(BulkOf(Start(), BulkKind::kOffer), nullptr) << "still open";
  Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(manifest));
  EXPECT_EQ(Leaves(gate::LeafType::kReceipt), 1);
}

// Two exports a round: the second only when the coordinator will never take the first.
TEST_F(HostileCoordinator, APolicyMayAllowARoundThatWasRefusedForGoodAnotherExport) {
  policy_ += "max_exports_per_round = 2\n";
  const std::string bytes = "max_bytes_per_round = 100000";
  policy_.replace(policy_.find(bytes), bytes.size(), "max_bytes_per_round = 140000");  // of both
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const auto send = [this] { return Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)); };
  const auto refuse = [this](const protocols::ReleaseManifest& manifest) {
    return *core_->OnOfferRefused({manifest.content,
                                   static_cast<uint16_t>(protocols::MessageType::kCommit),
                                   static_cast<uint8_t>(Code::kDataLoss)});
  };
  const auto first = ManifestIn(*BulkOf(send(), BulkKind::kOffer));
  EXPECT_EQ(BulkOf(send(), BulkKind::kOffer), nullptr) << "while the first is open: no other";
  EXPECT_NE(MessageOf(refuse(first), IpcType::kRoundStart), nullptr) << "asked for again";
  EXPECT_NE(MessageOf(Start(), IpcType::kRoundStart), nullptr) << "after a restart too";
  const auto second = ManifestIn(*BulkOf(send(), BulkKind::kOffer));
  EXPECT_NE(second.content, first.content);
  EXPECT_EQ(MessageOf(refuse(second), IpcType::kRoundStart), nullptr);
  EXPECT_EQ(BulkOf(send(), BulkKind::kOffer), nullptr);
  EXPECT_EQ(MessageOf(Start(), IpcType::kRoundStart), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 2) << "both were debited";
}

// Whoever can make link speak can fill the room for refused documents, and no other.
TEST_F(HostileCoordinator, AFloodOfBadDocumentsLeavesRoomForWhatTheRulesRefuse) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  protocols::Signed document = *protocols::Decode<protocols::Signed>(JobBytes());
  for (uint32_t i = 0; i < 1'200; ++i) {
    StoreLe32(document.body.items.data() + 20, i);
    Bulk(To::kLink, BulkKind::kJob, protocols::Encode(document));
  }
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 1'000);
  Bulk(To::kTrainer, BulkKind::kUpdate,
       gate::SampleUpdate(job_, gate::SampleHeader(job_, 1), 1.0f));
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 1'001);
  EXPECT_NE(LastRefusal().find("what=update"), std::string::npos) << LastRefusal();
  Start();
  Bulk(To::kLink, BulkKind::kJob, Bytes(protocols::Encode(document)));
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 1'001) << "counted after a restart too";
}

}  // namespace
}  // namespace tidegate::onshore
