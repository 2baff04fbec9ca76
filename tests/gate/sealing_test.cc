#include "gate/sealing.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <functional>

#include "gate_samples.h"
#include "permit/release.h"
#include "protocols/seal_binding.h"
#include "tests/crypto/open_body.h"

namespace tidegate::gate {
namespace {

namespace fs = std::filesystem;

// What the gate holds a permit against, for a test to change one thing of.
struct Use {
  std::string site = "north";
  protocols::JobManifest job = SampleJob();
  protocols::RoundAnnouncement round = SampleRound(job, 2);
  Bytes update = SampleUpdate(job, SampleHeader(job, 2));

  Result<SealedUpdate> Seal(permit::Cleared<Update> cleared) const {
    return Sealing::Seal(std::move(cleared), {site, job, round, update, 1, 1000});
  }
};

permit::Cleared<Update> Permit() { return *std::move(SampleVerdict(SampleJob(), 2).cleared); }

class SealedRelease : public testing::Test {
 protected:
  SealedRelease() {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    opened_.federation = Federation();
    opened_.site = "north";
    ledger_ = *Ledger::Open(dir_ / "ledger", SiteKey(), opened_, clock_);
  }
  ~SealedRelease() override { fs::remove_all(dir_); }

  const fs::path dir_ = fs::temp_directory_path() / fmt::format("tidegate_sealing_{}", ::getpid());
  OpenedLeaf opened_;
  ManualClock clock_{1795581436000};
  std::unique_ptr<Ledger> ledger_;
};

TEST(Sealing, WhatIsSealedOpensAsItWasAndOnlyAsWhatItWas) {
  const Use use;
  const auto sealed = use.Seal(Permit());
  ASSERT_TRUE(sealed.has_value()) << sealed.error().ToString();
  const protocols::ReleaseManifest& manifest = sealed->manifest();
  std::vector<ByteSpan> chunks;
  for (const auto& chunk : sealed->blocks()) chunks.push_back(chunk.bytes);
  const crypto::SealHeader header{crypto::Suite::kTg1, manifest.encapsulated, manifest.commitment};
  const Bytes info = protocols::SealInfo(Federation(), use.job.suite);
  const Digest layout = LayoutDigest(use.job);
  const auto open = [&](const protocols::UpdateKey& key) {
    const Bytes aad = protocols::SealAad(key, use.job.base_hash, layout, use.job.codec);
    return crypto::OpenBody(header, chunks, RecipientKey(), info, aad);
  };
  EXPECT_EQ(*open({IdOf(use.job), 2, 0, "north"}), use.update);
  EXPECT_FALSE(open({IdOf(use.job), 3, 0, "north"}).has_value());
  EXPECT_FALSE(open({IdOf(use.job), 2, 0, "south"}).has_value());
  EXPECT_EQ(manifest.layout_digest, layout);
  EXPECT_EQ(manifest.plaintext, crypto::Sha256::Of(use.update));
}

TEST(Sealing, APermitIsRefusedForAnySiteJobRoundPhaseOrUpdateButItsOwn) {
  const std::function<void(Use&)> changes[] = {
      [](Use& u) { u.site = "south"; },
      [](Use& u) { u.round.job[0] ^= 1; },
      [](Use& u) { u.job.seed = 5; },  // a job, and the round before it
      [](Use& u) {
        u.job.seed = 5;
        u.round.job = IdOf(u.job);
      },
      [](Use& u) { u.round.round = 3; },
      [](Use& u) { u.round.phase = 1; },
      [](Use& u) { u.update.back() ^= 1; },
      [](Use& u) { u.update.push_back(0); },
  };
  for (size_t i = 0; i < std::size(changes); ++i) {
    Use use;
    changes[i](use);
    const auto sealed = use.Seal(Permit());
    ASSERT_FALSE(sealed.has_value()) << i;
    EXPECT_EQ(sealed.error().code(), Code::kPermissionDenied) << i;
  }
}

TEST_F(SealedRelease, IsSignedOnceItsIntentIsInTheLedgerAndByNothingLess) {
  const SealedUpdate sealed = SealedSample(*ledger_, 2);
  const auto before = Sealing::Sign(SiteKey(), *ledger_, sealed.manifest());
  ASSERT_FALSE(before.has_value());
  EXPECT_EQ(before.error().code(), Code::kFailedPrecondition);
  ASSERT_TRUE(Sealing::Debit(*ledger_, sealed).ok());
  const auto document = Sealing::Sign(SiteKey(), *ledger_, sealed.manifest());
  ASSERT_TRUE(document.has_value()) << document.error().ToString();
  const auto release =
      permit::Release::Verify(*document, SiteKey().verify_key(), Federation(), "north");
  ASSERT_TRUE(release.has_value()) << release.error().ToString();
  EXPECT_EQ(release->manifest(), sealed.manifest());
  // Any other manifest for that leaf is no release, whichever field differs.
  const std::function<void(protocols::ReleaseManifest&)> changes[] = {
      [](auto& m) { m.recipient[0] ^= 1; },  [](auto& m) { m.blocks.items[0][0] ^= 1; },
      [](auto& m) { m.key.site = "south"; }, [](auto& m) { m.ledger_index = 0; },
      [](auto& m) { m.ledger_index = 9; },
  };
  for (const auto& change : changes) {
    protocols::ReleaseManifest other = sealed.manifest();
    change(other);
    EXPECT_FALSE(Sealing::Sign(SiteKey(), *ledger_, other).has_value());
  }
}

// The ledger alone is enough: that is what a gate has after a restart.
TEST_F(SealedRelease, IsSignedWithTheSameBytesAfterARestart) {
  const SealedUpdate sealed = SealedSample(*ledger_, 2);
  ASSERT_TRUE(Sealing::Debit(*ledger_, sealed).ok());
  const auto first = *Sealing::Sign(SiteKey(), *ledger_, sealed.manifest());
  const Bytes spooled = protocols::Encode(sealed.manifest());
  ledger_.reset();
  ledger_ = *Ledger::Open(dir_ / "ledger", SiteKey(), opened_, clock_);
  const auto manifest = *protocols::Decode<protocols::ReleaseManifest>(spooled);
  EXPECT_EQ(*Sealing::Sign(SiteKey(), *ledger_, manifest), first);
}

TEST_F(SealedRelease, IsDebitedOnlyAtTheLeafItWasSealedFor) {
  const SealedUpdate sealed = SealedSample(*ledger_, 2);
  ASSERT_TRUE(ledger_->Append(LeafType::kRefusal, RefusalLeaf{}).has_value());
  EXPECT_EQ(Sealing::Debit(*ledger_, sealed).code(), Code::kInternal);
  EXPECT_EQ(ledger_->SpentOn(IdOf(SampleJob()), 1).exports_of_job, 0u);
}

TEST_F(SealedRelease, NoOtherCallWritesAnIntent) {
  const auto index = ledger_->Append(LeafType::kIntent, RefusalLeaf{});
  ASSERT_FALSE(index.has_value());
  EXPECT_EQ(index.error().code(), Code::kInternal);
  EXPECT_EQ(ledger_->size(), 1u);
}

}  // namespace
}  // namespace tidegate::gate
