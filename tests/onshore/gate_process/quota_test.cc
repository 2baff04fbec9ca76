// The quota of sealed updates that wait for their receipts.
#include "tests/onshore/gate_process/gate_core_fixture.h"

namespace tidegate::onshore {
namespace {

// One update fits. The next waits for the receipt of the one before, and is not lost: not debited,
// nothing of it on disk, asked for again, and in the end released.
TEST_F(GateCoreTest, AnUpdateThatDoesNotFitTheQuotaWaitsForRoom) {
  const uint64_t sealed = crypto::SealedSizeOf(Update(1).size()).bytes;
  spool_bytes_ = sealed + sealed / 2;
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const GateEffects first = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  ASSERT_NE(BulkOf(first, BulkKind::kOffer), nullptr);
  const auto manifest = ManifestIn(*BulkOf(first, BulkKind::kOffer));
  OpenRound(2);

  testing::internal::CaptureStderr();
  const GateEffects full = Bulk(To::kTrainer, BulkKind::kUpdate, Update(2));
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(BulkOf(full, BulkKind::kOffer), nullptr);
  EXPECT_EQ(MessageOf(full, IpcType::kRoundResult), nullptr);
  EXPECT_EQ(MessageOf(full, IpcType::kRoundStart), nullptr) << "not in a tight loop";
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1);
  for (const std::string& words :
       {std::string("update_waits round=2"), std::string("max_spool_bytes of site.toml"),
        (dir_ / "spool").native(), fmt::format("its quota of {}", spool_bytes_)}) {
    EXPECT_NE(log.find(words), std::string::npos) << words << " is not in: " << log;
  }

  // The first one's receipt makes room.
  EXPECT_NE(MessageOf(*core_->OnTick(), IpcType::kRoundStart), nullptr);
  Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(manifest));
  const GateEffects second = Bulk(To::kTrainer, BulkKind::kUpdate, Update(2));
  ASSERT_NE(BulkOf(second, BulkKind::kOffer), nullptr);
  EXPECT_EQ(ManifestIn(*BulkOf(second, BulkKind::kOffer)).key.round, 2U);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 2);
}

// A quota that no update fits: a gate that is started again with a larger one goes on.
TEST_F(GateCoreTest, ALargerQuotaLetsTheRoundGoOn) {
  spool_bytes_ = 1024;
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  EXPECT_EQ(BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)), BulkKind::kOffer), nullptr);
  core_.reset();
  EXPECT_TRUE(fs::is_empty(dir_ / "releases"));
  spool_bytes_ = protocols::kMaxSpoolBytes;
  EXPECT_NE(MessageOf(Start(), IpcType::kRoundStart), nullptr);
  EXPECT_NE(BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)), BulkKind::kOffer), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1);
}

}  // namespace
}  // namespace tidegate::onshore
