// A job that feeds errors back: a round begins when the gate knows what became of the update before
// it, and the trainer is told.
#include <gtest/gtest.h>

#include "gate_core_fixture.h"

namespace tidegate::onshore {
namespace {

class ErrorFeedbackTest : public GateCoreTest {
 protected:
  ErrorFeedbackTest() { TakeFeedback(true); }

  void TakeFeedback(bool feedback) {
    job_.error_feedback = feedback;
    id_ = gate::IdOf(job_);
  }
  // Round 1 is out and round 2 announced: what the gate did upon the latter.
  GateEffects UpToRoundTwo() {
    Start();
    Bulk(To::kLink, BulkKind::kJob, JobBytes());
    OpenRound(1);
    const auto effects = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
    const SendBulkTo* offer = BulkOf(effects, BulkKind::kOffer);
    EXPECT_NE(offer, nullptr) << LastRefusal();
    if (offer != nullptr) manifest_ = ManifestIn(*offer);
    return OpenRound(2);
  }
  GateEffects Receipt(protocols::ReceiptOutcome outcome) {
    protocols::Receipt receipt;
    receipt.federation = gate::Federation();
    receipt.key = manifest_.key;
    receipt.content = manifest_.content;
    receipt.outcome = outcome;
    receipt.ledger_head = core_->ledger().head();
    return Bulk(To::kLink, BulkKind::kReceipt, Sign(crypto::domains::kReceipt, receipt));
  }
  static std::optional<RoundStart> StartIn(const GateEffects& effects) {
    const SendMessage* message = MessageOf(effects, IpcType::kRoundStart);
    if (message == nullptr) return std::nullopt;
    return *protocols::Decode<RoundStart>(message->body);
  }
  void ExpectStart(const GateEffects& effects, uint32_t counted) {
    const auto start = StartIn(effects);
    ASSERT_TRUE(start.has_value());
    EXPECT_EQ(start->round, 2u);
    EXPECT_EQ(start->counted_round, counted);
  }

  protocols::ReleaseManifest manifest_;
};

TEST_F(ErrorFeedbackTest, ARoundWaitsForTheReceiptOfTheOneBeforeAcrossRestarts) {
  EXPECT_FALSE(StartIn(UpToRoundTwo()).has_value());
  EXPECT_FALSE(StartIn(Start()).has_value()) << "a gate that was started again knows it too";
  ExpectStart(Receipt(protocols::ReceiptOutcome::kCounted), 1);
  ExpectStart(Start(), 1);
}

TEST_F(ErrorFeedbackTest, ALateReceiptIsNoCountedRound) {
  UpToRoundTwo();
  ExpectStart(Receipt(protocols::ReceiptOutcome::kLate), 0);
  ExpectStart(Start(), 0);
}

TEST_F(ErrorFeedbackTest, AnUpdateThatIsRefusedForGoodIsWaitedForNoLonger) {
  UpToRoundTwo();
  OfferRefused refused;
  refused.content = manifest_.content;
  refused.code = static_cast<uint8_t>(Code::kInvalidArgument);
  ASSERT_TRUE(IsFinal(refused));
  GateEffects effects;
  Add(&effects, core_->OnOfferRefused(refused));
  ExpectStart(effects, 0);
}

TEST_F(ErrorFeedbackTest, WithoutItNothingIsWaitedFor) {
  TakeFeedback(false);
  ExpectStart(UpToRoundTwo(), 0);
}

}  // namespace
}  // namespace tidegate::onshore
