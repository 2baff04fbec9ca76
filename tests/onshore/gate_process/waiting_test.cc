// What a carrier is told: whether the gate has anything to do before the coordinator says more.
#include "gate_core_fixture.h"

namespace tidegate::onshore {
namespace {

class Waits : public GateCoreTest {
 protected:
  static std::optional<bool> Told(const GateEffects& effects) {
    std::optional<bool> told;
    for (const GateEffect& effect : effects) {
      const auto* message = std::get_if<SendMessage>(&effect);
      if (message == nullptr || message->type != IpcType::kWaiting) continue;
      EXPECT_EQ(message->to, To::kLink);
      told = protocols::Decode<Waiting>(message->body)->waits;
    }
    return told;
  }
  std::optional<bool> Ask() { return Told(*core_->OnAskWaiting()); }
  protocols::ReleaseManifest Release(uint32_t round) {
    const GateEffects out = Bulk(To::kTrainer, BulkKind::kUpdate, Update(round));
    told_ = Told(out);
    return ManifestIn(*BulkOf(out, BulkKind::kOffer));
  }
  std::optional<bool> told_;
};

TEST_F(Waits, WithoutAJobAndUntilThereIsARoundToTrain) {
  Start();
  EXPECT_EQ(Ask(), true) << "no job";
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  EXPECT_EQ(Ask(), true) << "no adapter";
  Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, AdapterOf(0)));
  EXPECT_EQ(Ask(), false) << "its blocks come";
  EXPECT_EQ(Told(GiveBlock(0)), true) << "told when they are here, for there is no round";
  Bulk(To::kLink, BulkKind::kRound, Sign(crypto::domains::kRound, RoundOf(1)));
  EXPECT_EQ(Ask(), false) << "the trainer's turn";
}

TEST_F(Waits, FromTheReleaseOfAnUpdateUntilItsReceiptAndTheNextRound) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  EXPECT_EQ(Ask(), false);
  const auto manifest = Release(1);
  EXPECT_EQ(told_, true) << "told with the offer";
  EXPECT_EQ(Ask(), true);
  EXPECT_EQ(Told(Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(manifest))), std::nullopt)
      << "once a question";
  EXPECT_EQ(Ask(), true);
  OpenRound(2);
  EXPECT_EQ(Ask(), false);
  // A gate that is started again has the same to do, and a link that is started again must ask.
  Start();
  EXPECT_EQ(Ask(), false);
  EXPECT_EQ(Told(*core_->OnHello(To::kLink)), std::nullopt);
}

TEST_F(Waits, ForEverOnceARoundIsRefusedOrItsJobHasEnded) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  EXPECT_EQ(Ask(), false);
  NoUpdate none;
  none.job = id_;
  none.round = 1;
  EXPECT_EQ(Told(*core_->OnNoUpdate(none)), true);
  OpenRound(2);
  EXPECT_EQ(Ask(), false);
  const auto abandoned =
      Bulk(To::kLink, BulkKind::kAbandon,
           Sign(crypto::domains::kAbandon,
                protocols::AbandonNotice{id_, 0, protocols::AbandonReason::kStopped, 1}));
  EXPECT_EQ(Told(abandoned), true);
}

TEST_F(Waits, WithTheLastAdapterOnlyWhereAReceiptIsMissing) {
  job_.rounds = 1;
  id_ = gate::IdOf(job_);
  Start(false);
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  core_->OnHello(To::kTrainer).value();
  core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer)).value();
  const auto manifest = Release(1);
  Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, AdapterOf(1)));
  GiveBlock(1);
  EXPECT_EQ(Ask(), true) << "the receipt is missing";
  Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(manifest));
  EXPECT_EQ(Ask(), true) << "the job has ended";
}

TEST_F(Waits, ForRoomThatAReceiptMakes) {
  const uint64_t sealed = crypto::SealedSizeOf(Update(1).size()).bytes;
  spool_bytes_ = sealed + sealed / 2;
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  Release(1);
  OpenRound(2);
  EXPECT_EQ(Ask(), false);
  EXPECT_EQ(Told(Bulk(To::kTrainer, BulkKind::kUpdate, Update(2))), true);
}

TEST_F(Waits, ForPeopleWhoMustReleaseAnUpdate) {
  policy_ +=
      fmt::format("[approval]\nhold = \"always\"\nneeded = 1\napprovers = {{ alice = \"{}\" }}\n",
                  crypto::SigningKey::Generate()->verify_key().ToText());
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  EXPECT_EQ(Ask(), false);
  EXPECT_EQ(Told(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1))), true);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0);
}

// An old folder that comes back: what is in it was true once, and is no more.
TEST_F(Waits, AnOldFolderThatComesBackChangesNothing) {
  Start();
  const Bytes old_adapter = Sign(crypto::domains::kAdapter, AdapterOf(0));
  const Bytes old_round = Sign(crypto::domains::kRound, RoundOf(1));
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const auto manifest = Release(1);
  const Bytes old_receipt = ReceiptFor(manifest);
  Bulk(To::kLink, BulkKind::kReceipt, old_receipt);
  OpenRound(2);
  Release(2);
  const int receipts = Leaves(gate::LeafType::kReceipt);
  const int refusals = Leaves(gate::LeafType::kRefusal);
  for (int times = 0; times < 2; ++times) {
    EXPECT_EQ(MessageOf(Bulk(To::kLink, BulkKind::kJob, JobBytes()), IpcType::kKnown), nullptr);
    Bulk(To::kLink, BulkKind::kReceipt, old_receipt);
    const auto adapter = Bulk(To::kLink, BulkKind::kAdapter, old_adapter);
    EXPECT_EQ(MessageOf(adapter, IpcType::kWantBlocks), nullptr);
    const auto round = Bulk(To::kLink, BulkKind::kRound, old_round);
    EXPECT_EQ(MessageOf(round, IpcType::kRoundStart), nullptr);
    EXPECT_EQ(Ask(), true);
  }
  std::string refused;
  for (const auto& leaf : core_->ledger().leaves()) {
    if (leaf.entry.type == gate::LeafType::kRefusal) refused += audit::LeafText(leaf.entry);
  }
  EXPECT_NE(refused.find("adapter version 0 is not above 1"), std::string::npos) << refused;
  EXPECT_NE(refused.find("round 1 is not above 2"), std::string::npos) << refused;
  EXPECT_EQ(Leaves(gate::LeafType::kReceipt), receipts);
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), refusals + 2) << "each is said once";
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 2);
}

TEST_F(Waits, ALinkWithoutANetworkIsALinkAndATrainerIsNot) {
  auto core = GateCore::Create(dir_, Identity(), Statement(Role::kGate), clock_);
  ASSERT_TRUE(core.has_value());
  core_ = std::move(*core);
  core_->OnHello(To::kLink).value();
  core_->OnIsolation(To::kLink, Statement(Role::kCarrier)).value();
  core_->OnHello(To::kTrainer).value();
  core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer)).value();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  Release(1);
  EXPECT_EQ(told_, std::nullopt) << "nobody asked";
  core_->OnHello(To::kLink).value();
  const auto refused = *core_->OnIsolation(To::kLink, Statement(Role::kTrainer));
  EXPECT_EQ(BulkOf(refused, BulkKind::kOffer), nullptr);
  EXPECT_NE(LastRefusal().find("another role"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::onshore
