// Jobs that the trainer cannot run, and those after them.
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
  GateEffects SayTrainer() {
    GateEffects all = *core_->OnHello(To::kTrainer);
    Add(&all, core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer)));
    return all;
  }
  NoUpdate NoJob() const {
    return {id_, kWholeJob, static_cast<uint8_t>(Code::kFailedPrecondition)};
  }
};

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
