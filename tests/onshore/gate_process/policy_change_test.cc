// A policy that was changed holds for what an earlier one let out, as far as it is still here.
#include <gtest/gtest.h>

#include "gate_core_fixture.h"

namespace tidegate::onshore {
namespace {

class PolicyChange : public GateCoreTest {
 protected:
  // An export without a receipt, and then a gate with a policy in which `from` is `to`.
  const SendBulkTo* OfferAfter(const std::string& from, const std::string& to) {
    Start();
    Bulk(To::kLink, BulkKind::kJob, JobBytes());
    OpenRound(1);
    manifest_ =
        ManifestIn(*BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)), BulkKind::kOffer));
    const size_t at = policy_.find(from);
    EXPECT_NE(at, std::string::npos);
    policy_.replace(at, from.size(), to);
    effects_ = Start();
    return BulkOf(effects_, BulkKind::kOffer);
  }
  void ExpectWithdrawn(const std::string& rule) {
    EXPECT_NE(LastRefusal().find("what=release"), std::string::npos) << LastRefusal();
    EXPECT_NE(LastRefusal().find("rule=" + rule), std::string::npos) << LastRefusal();
    EXPECT_NE(LastRefusal().find(ToHex(manifest_.content)), std::string::npos) << LastRefusal();
    EXPECT_TRUE(core_->OnNeedBlock({manifest_.content, 0})->empty());
    EXPECT_TRUE(fs::is_empty(dir_ / "releases"));
    EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1) << "the debit stands";
    const int refusals = Leaves(gate::LeafType::kRefusal);
    EXPECT_EQ(BulkOf(Start(), BulkKind::kOffer), nullptr);
    EXPECT_EQ(Leaves(gate::LeafType::kRefusal), refusals) << "said once";
  }

  protocols::ReleaseManifest manifest_;
  GateEffects effects_;
};

TEST_F(PolicyChange, AnExportOfAJobThatIsNoLongerAllowedIsWithdrawn) {
  EXPECT_EQ(OfferAfter("\"triage\"", "\"other\""), nullptr);
  ExpectWithdrawn("job");
}

TEST_F(PolicyChange, AnExportOverALimitThatWasLoweredIsWithdrawn) {
  EXPECT_EQ(OfferAfter("norm_clip = 10.0", "norm_clip = 0.01"), nullptr);
  ExpectWithdrawn("norm");
}

TEST_F(PolicyChange, AnExportOfMoreBytesThanARoundMayHaveNowIsWithdrawn) {
  EXPECT_EQ(OfferAfter("max_bytes_per_round = 100000", "max_bytes_per_round = 1000"), nullptr);
  ExpectWithdrawn("budget");
}

TEST_F(PolicyChange, AnExportWithALossThatIsNoLongerNamedIsWithdrawn) {
  EXPECT_EQ(OfferAfter("\"train_loss\", ", ""), nullptr);
  ExpectWithdrawn("metrics");
}

TEST_F(PolicyChange, AnExportThatTheNewPolicyAllowsTooGoesOn) {
  const SendBulkTo* offer = OfferAfter("norm_clip = 10.0", "norm_clip = 9.0");
  ASSERT_NE(offer, nullptr);
  EXPECT_EQ(ManifestIn(*offer), manifest_);
  EXPECT_EQ(Leaves(gate::LeafType::kPolicy), 2);
}

}  // namespace
}  // namespace tidegate::onshore
