// What the coordinator has given up is gone, after a restart too; and one job comes after the
// other.
#include <gtest/gtest.h>

#include "gate_core_fixture.h"

namespace tidegate::onshore {
namespace {

class AbandonTest : public GateCoreTest {
 protected:
  void TakeJobAndRound() {
    Bulk(To::kLink, BulkKind::kJob, JobBytes());
    OpenRound(1);
  }
  Bytes Notice(uint32_t round) const {
    protocols::AbandonNotice notice;
    notice.job = id_;
    notice.round = round;
    return Sign(crypto::domains::kAbandon, notice);
  }
  GateEffects Abandon(uint32_t round) { return Bulk(To::kLink, BulkKind::kAbandon, Notice(round)); }
  // The outcome that the trainer is told of a round, if any.
  static std::optional<RoundOutcome> Outcome(const GateEffects& effects, uint32_t round) {
    const SendMessage* message = MessageOf(effects, IpcType::kRoundResult);
    if (message == nullptr) return std::nullopt;
    const auto result = *protocols::Decode<RoundResult>(message->body);
    EXPECT_EQ(result.round, round);
    return result.outcome;
  }
};

TEST_F(AbandonTest, AnAbandonedRoundIsGoneAfterARestartToo) {
  Start();
  TakeJobAndRound();
  EXPECT_EQ(Outcome(Abandon(1), 1), RoundOutcome::kAbandoned) << "the trainer is free";
  EXPECT_EQ(Outcome(Abandon(1), 1), std::nullopt) << "told once";
  for (int i = 0; i < 2; ++i) {
    Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
    EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0) << "what was trained all the same stays here";
    const GateEffects effects = Start();
    EXPECT_EQ(MessageOf(effects, IpcType::kRoundStart), nullptr);
    EXPECT_EQ(Outcome(effects, 1), RoundOutcome::kAbandoned) << "a trainer may still be at it";
  }
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 0);
  // The next round begins from the same version.
  protocols::RoundAnnouncement next = RoundOf(1);
  next.round = 2;
  const auto effects = Bulk(To::kLink, BulkKind::kRound, Sign(crypto::domains::kRound, next));
  ASSERT_NE(MessageOf(effects, IpcType::kRoundStart), nullptr);
  EXPECT_NE(MessageOf(Start(), IpcType::kRoundStart), nullptr) << "the notice was of round 1";
}

TEST_F(AbandonTest, AStoppedJobIsGoneAfterARestartToo) {
  Start();
  TakeJobAndRound();
  const GateEffects stopped = Abandon(0);
  EXPECT_NE(MessageOf(stopped, IpcType::kStop), nullptr);
  EXPECT_TRUE(Tells(stopped, ControlType::kJobEnded));
  Abandon(1);  // an older notice that comes late opens nothing
  const GateEffects alone = Start(false);
  EXPECT_TRUE(Tells(alone, ControlType::kJobEnded)) << "a new supervisor must hear it";
  EXPECT_FALSE(Tells(alone, ControlType::kNeedTrainer));
  EXPECT_FALSE(Tells(*core_->OnTick(), ControlType::kNeedTrainer));
  // A trainer that outlived the gate is told to end, and gets nothing to do.
  const GateEffects effects = Start();
  EXPECT_NE(MessageOf(effects, IpcType::kStop), nullptr);
  EXPECT_EQ(BulkOf(effects, BulkKind::kJob), nullptr);
  EXPECT_EQ(MessageOf(effects, IpcType::kRoundStart), nullptr);
  Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0);
}

// What left before the end is still to be closed by its receipt.
TEST_F(AbandonTest, AnUpdateThatWasOutWhenItsJobWasStoppedWaitsForItsReceipt) {
  Start();
  TakeJobAndRound();
  const auto released = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  const auto manifest = ManifestIn(*BulkOf(released, BulkKind::kOffer));
  Abandon(0);
  EXPECT_EQ(ManifestIn(*BulkOf(Start(), BulkKind::kOffer)), manifest);
  Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(manifest));
  EXPECT_EQ(Leaves(gate::LeafType::kReceipt), 1);
  EXPECT_EQ(BulkOf(Start(), BulkKind::kOffer), nullptr);
}

TEST_F(AbandonTest, ANoticeOfAnotherJobRoundOrKeyChangesNothing) {
  Start();
  TakeJobAndRound();
  protocols::AbandonNotice other;
  other.job = id_;
  other.job[3] ^= 1;
  Bulk(To::kLink, BulkKind::kAbandon, Sign(crypto::domains::kAbandon, other));
  Abandon(7);
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 0);
  protocols::AbandonNotice forged;
  forged.job = id_;
  Bulk(To::kLink, BulkKind::kAbandon,
       protocols::Encode(*crypto::SignDocument(SiteKey(), crypto::domains::kAbandon, forged)));
  EXPECT_NE(LastRefusal().find("what=abandon"), std::string::npos) << LastRefusal();
  EXPECT_NE(MessageOf(Start(), IpcType::kRoundStart), nullptr);
}

// The round ended while its update was on the way from trainer to gate: no fault of either.
TEST_F(AbandonTest, AnUpdateOfARoundThatIsOverIsDroppedAndTheOpenOneGoesOn) {
  Start();
  TakeJobAndRound();
  ASSERT_NE(MessageOf(OpenRound(2), IpcType::kRoundStart), nullptr);
  const GateEffects late = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  EXPECT_TRUE(late.empty());
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 0);
  EXPECT_NE(MessageOf(Start(), IpcType::kRoundStart), nullptr) << "round 2 is still wanted";
  EXPECT_NE(BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(2)), BulkKind::kOffer), nullptr);
}

TEST_F(AbandonTest, ASecondJobWaitsUntilTheFirstHasEndedAndIsNoRefusal) {
  Start();
  TakeJobAndRound();
  const protocols::JobManifest first = job_;
  const protocols::Id16 first_id = id_;
  job_.seed = 77;
  id_ = gate::IdOf(job_);
  const Bytes second = JobBytes();
  const auto second_adapter = Sign(crypto::domains::kAdapter, AdapterOf(0));
  const auto second_round = Sign(crypto::domains::kRound, RoundOf(1));
  const auto push_second = [&] {
    GateEffects effects = Bulk(To::kLink, BulkKind::kJob, second);
    Add(&effects, core_->OnBulk(To::kLink, BulkKind::kAdapter, {}, 0, second_adapter));
    Add(&effects, core_->OnBulk(To::kLink, BulkKind::kRound, {}, 0, second_round));
    return effects;
  };
  EXPECT_TRUE(push_second().empty());
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 0);
  EXPECT_EQ(Leaves(gate::LeafType::kJob), 1);
  job_ = first;
  std::swap(id_, const_cast<protocols::Id16&>(first_id));
  EXPECT_NE(BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)), BulkKind::kOffer), nullptr)
      << "the first goes on";
  Abandon(0);
  const GateEffects taken = push_second();
  EXPECT_TRUE(Tells(taken, ControlType::kNeedTrainer)) << "a trainer of its own";
  EXPECT_EQ(Leaves(gate::LeafType::kJob), 2);
  // Killed before the adapter of the second is there: what is left of the first is not taken for
  // it.
  const GateEffects effects = Start();
  EXPECT_NE(BulkOf(effects, BulkKind::kJob), nullptr);
  EXPECT_EQ(MessageOf(effects, IpcType::kStop), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 0);
}

}  // namespace
}  // namespace tidegate::onshore
