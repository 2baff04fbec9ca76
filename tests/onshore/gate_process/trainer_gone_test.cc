// A trainer that is held by the site's people, and what the supervisor is told for its status.
#include "gate_core_fixture.h"

namespace tidegate::onshore {
namespace {

class TrainerGone : public GateCoreTest {
 protected:
  static const TellSupervisor* Told(const GateEffects& effects, ControlType type) {
    return Find<TellSupervisor>(effects,
                                [type](const TellSupervisor& t) { return t.type == type; });
  }
  static bool SaysToTrainer(const GateEffects& effects) {
    return Find<SendMessage>(effects, [](const SendMessage& m) { return m.to == To::kTrainer; }) !=
               nullptr ||
           Find<SendBulkTo>(effects, [](const SendBulkTo& b) { return b.to == To::kTrainer; }) !=
               nullptr;
  }
};

TEST_F(TrainerGone, IsToldNothingUntilTheNextOneSaysHello) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  ASSERT_TRUE(SaysToTrainer(OpenRound(1)));
  const GateEffects gone = *core_->OnTrainerGone();
  EXPECT_FALSE(SaysToTrainer(gone));
  EXPECT_TRUE(Tells(gone, ControlType::kNeedTrainer)) << "it is wanted all the same";
  EXPECT_FALSE(SaysToTrainer(OpenRound(2))) << "nothing piles up for it";
  GateEffects back = *core_->OnHello(To::kTrainer);
  Add(&back, core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer)));
  EXPECT_NE(MessageOf(back, IpcType::kRoundStart), nullptr);
  EXPECT_NE(BulkOf(back, BulkKind::kParameters), nullptr);
}

TEST_F(TrainerGone, TheSupervisorHearsOfJobAndStateWhenTheyChange) {
  GateEffects all = Start();
  EXPECT_EQ(Told(all, ControlType::kJobIs), nullptr);
  const GateEffects job = Bulk(To::kLink, BulkKind::kJob, JobBytes());
  const TellSupervisor* is = Told(job, ControlType::kJobIs);
  ASSERT_NE(is, nullptr);
  EXPECT_EQ(std::memcmp(is->arguments.data(), id_.data(), id_.size()), 0);
  EXPECT_EQ(is->arguments[2], job_.rounds);
  const TellSupervisor* name = Told(job, ControlType::kJobName);
  ASSERT_NE(name, nullptr);
  const auto* text = reinterpret_cast<const char*>(name->arguments.data());
  const std::string first(text, std::min<size_t>(job_.name.text.size(), 32));
  EXPECT_EQ(first, job_.name.text.substr(0, 32));
  OpenRound(1);
  const GateEffects released = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  GateEffects later = released;
  Add(&later, core_->OnTick());
  const TellSupervisor* state = Find<TellSupervisor>(later, [](const TellSupervisor& t) {
    return t.type == ControlType::kGateState && t.code == 1;
  });
  ASSERT_NE(state, nullptr) << "an export without a receipt";
  EXPECT_EQ(state->arguments[0], 1);
  EXPECT_EQ(state->arguments[1], 0);
  EXPECT_GT(state->arguments[2], 0) << "bytes in the spool";
  EXPECT_EQ(state->arguments[3], -1);
  EXPECT_EQ(Told(*core_->OnTick(), ControlType::kGateState), nullptr) << "once";
}

}  // namespace
}  // namespace tidegate::onshore
