// What one job leaves behind for those after it: its rounds, its versions, its budgets; and jobs
// that the trainer cannot run.
#include <gtest/gtest.h>

#include "gate_core_fixture.h"

namespace tidegate::onshore {
namespace {

class SecondJob : public GateCoreTest {
 protected:
  // Another one of the same name.
  void Become(uint64_t seed) {
    job_.seed = seed;
    id_ = gate::IdOf(job_);
  }
  GateEffects Take() { return Bulk(To::kLink, BulkKind::kJob, JobBytes()); }
  void EndByAbandon() {
    protocols::AbandonNotice notice;
    notice.job = id_;
    Bulk(To::kLink, BulkKind::kAbandon, Sign(crypto::domains::kAbandon, notice));
  }
  bool Releases(uint32_t round) {
    return BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(round)), BulkKind::kOffer) !=
           nullptr;
  }
  GateEffects SayTrainer() {
    GateEffects all = *core_->OnHello(To::kTrainer);
    Add(&all, core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer)));
    return all;
  }
  NoUpdate NoJob() const {
    return {id_, kWholeJob, static_cast<uint8_t>(Code::kFailedPrecondition)};
  }
};

TEST_F(SecondJob, AJobThatComesAgainAfterAnotherGoesOnWhereItWas) {
  Start();
  Take();
  OpenRound(1);
  ASSERT_TRUE(Releases(1));
  OpenRound(2);
  ASSERT_TRUE(Releases(2)) << LastRefusal();
  EndByAbandon();
  Become(77);
  Take();
  OpenRound(1);
  EndByAbandon();
  job_ = gate::SampleJob();
  id_ = gate::IdOf(job_);
  EXPECT_TRUE(Tells(Take(), ControlType::kNeedTrainer)) << LastRefusal();
  for (const bool again : {false, true}) {
    SCOPED_TRACE(again ? "after a restart" : "at once");
    if (again) Start();
    const GateEffects adapter =
        Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, AdapterOf(0)));
    EXPECT_EQ(MessageOf(adapter, IpcType::kWantBlocks), nullptr);
    if (!again) {
      EXPECT_NE(LastRefusal().find("version 0 is not above 1"), std::string::npos) << LastRefusal();
    }
    const GateEffects round =
        Bulk(To::kLink, BulkKind::kRound, Sign(crypto::domains::kRound, RoundOf(1)));
    EXPECT_EQ(MessageOf(round, IpcType::kRoundStart), nullptr);
    EXPECT_NE(LastRefusal().find("round 1 is below 2"), std::string::npos) << LastRefusal();
    EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 2) << "the same words stand there once";
  }
  // Nor is the version that it had another one now.
  protocols::AdapterManifest other = AdapterOf(1);
  other.blocks.items = {blocks::BlockId(ParametersOf(9))};
  other.content = blocks::ContentId(other.blocks.items);
  const GateEffects effects =
      Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, other));
  EXPECT_EQ(MessageOf(effects, IpcType::kWantBlocks), nullptr);
  SayTrainer();
  EXPECT_NE(MessageOf(OpenRound(3), IpcType::kRoundStart), nullptr) << LastRefusal();
}

TEST_F(SecondJob, JobsBeyondWhatTheLedgerTakesAreRefusedAndThoseInItAreNot) {
  class NoSync : public gate::LedgerIo {
    int Sync(int) override { return 0; }
  } quick;
  Start();
  Take();
  EndByAbandon();
  core_.reset();
  Become(78);
  const protocols::JobManifest of_ledger = job_;
  const protocols::Id16 known = id_;
  {
    const GateIdentity identity = Identity();
    gate::OpenedLeaf opened;
    opened.federation = identity.approval.federation;
    opened.site = identity.approval.site;
    opened.site_key = identity.approval.site_sign_key;
    opened.coordinator_key = identity.approval.coordinator_sign_key;
    auto ledger = *gate::Ledger::Open(dir_ / "ledger", identity.key, opened, clock_, quick);
    gate::JobLeaf leaf;
    leaf.name = "triage";
    for (uint32_t i = 1; i < protocols::kMaxLedgerJobs; ++i) {
      std::memcpy(leaf.job.data(), &i, sizeof(i));
      if (i == 1) leaf.job = known;
      ASSERT_TRUE(ledger->Append(gate::LeafType::kJob, leaf).has_value());
    }
  }
  Start();
  Become(77);
  const int jobs = Leaves(gate::LeafType::kJob);
  EXPECT_EQ(MessageOf(Take(), IpcType::kKnown), nullptr);
  EXPECT_NE(LastRefusal().find("rule=ledger"), std::string::npos) << LastRefusal();
  EXPECT_EQ(Leaves(gate::LeafType::kJob), jobs);
  job_ = of_ledger;
  id_ = known;
  EXPECT_TRUE(Tells(Take(), ControlType::kNeedTrainer)) << LastRefusal();
  SayTrainer();
  EXPECT_NE(MessageOf(OpenRound(1), IpcType::kRoundStart), nullptr) << LastRefusal();
}

TEST_F(SecondJob, LimitsPerJobAreForAllJobsOfANameAndForOneOfAnId) {
  const std::string limit = "max_exports_per_job = 7";
  policy_.replace(policy_.find(limit), limit.size(), "max_exports_per_job = 1");
  Start();
  Take();
  OpenRound(1);
  ASSERT_TRUE(Releases(1));
  EndByAbandon();
  Become(77);
  Take();
  OpenRound(1);
  EXPECT_FALSE(Releases(1)) << "another job, the same name";
  EXPECT_NE(LastRefusal().find("max_exports_per_job"), std::string::npos) << LastRefusal();
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1);
  EndByAbandon();
  // Somebody looked at this one.
  Become(78);
  const std::string allow = "[\"triage\"]";
  policy_.replace(policy_.find(allow), allow.size(), "[\"" + ToHex(id_) + "\"]");
  Start();
  Take();
  OpenRound(1);
  EXPECT_TRUE(Releases(1)) << LastRefusal();
}

TEST_F(SecondJob, TheFirstExportOfEachJobOfANameIsHeld) {
  policy_ += "[approval]\nhold = \"first\"\napprovers = { alice = \"uid:1001\" }\n";
  for (const uint64_t seed : {1, 2}) {
    SCOPED_TRACE(seed);
    Become(seed);
    Start();
    Take();
    OpenRound(1);
    EXPECT_FALSE(Releases(1));
    const std::string digest =
        std::string(AsText(crypto::Sha256::Of(Update(1)))).substr(0, kDecisionDigestBytes);
    ASSERT_TRUE(core_->OnDecision(1001, gate::Decision::kRelease, AsBytes(digest), "looked at")
                    .has_value());
    EXPECT_TRUE(Releases(1)) << LastRefusal();
    OpenRound(2);
    EXPECT_TRUE(Releases(2)) << LastRefusal();
    clock_.Advance(86'400'000);
    EndByAbandon();
  }
}

// The coordinator chose it: the site is not to end over it, and says so.
TEST_F(SecondJob, AJobThatTheTrainerCannotRunIsRefusedAndTheNextOneIsTaken) {
  Start();
  Take();
  ASSERT_NE(MessageOf(OpenRound(1), IpcType::kRoundStart), nullptr);
  NoUpdate other = NoJob();
  other.job[0] ^= 1;
  EXPECT_TRUE(core_->OnNoUpdate(other)->empty()) << "another job";
  const GateEffects effects = *core_->OnNoUpdate(NoJob());
  EXPECT_NE(MessageOf(effects, IpcType::kStop), nullptr) << "the trainer ends in good order";
  EXPECT_TRUE(Tells(effects, ControlType::kJobEnded));
  EXPECT_NE(LastRefusal().find("what=job"), std::string::npos) << LastRefusal();
  EXPECT_NE(LastRefusal().find("rule=trainer"), std::string::npos) << LastRefusal();
  EXPECT_TRUE(core_->OnNoUpdate(NoJob())->empty()) << "said once";
  EXPECT_FALSE(Tells(*core_->OnTick(), ControlType::kNeedTrainer));

  const protocols::JobManifest refused = job_;
  Become(77);
  EXPECT_TRUE(Tells(Take(), ControlType::kNeedTrainer)) << LastRefusal();
  SayTrainer();
  EXPECT_NE(MessageOf(OpenRound(1), IpcType::kRoundStart), nullptr);
  EndByAbandon();

  // With another base in site.toml, say, the trainer may know better.
  job_ = refused;
  id_ = gate::IdOf(job_);
  Take();
  EXPECT_FALSE(core_->OnNoUpdate(NoJob())->empty());
  EXPECT_NE(BulkOf(Start(), BulkKind::kJob), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 1) << "the same words stand there once";
}

}  // namespace
}  // namespace tidegate::onshore
