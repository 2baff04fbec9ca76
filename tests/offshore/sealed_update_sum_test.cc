#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "crypto/document.h"
#include "fake_site.h"
#include "offshore/sealed_update.h"

namespace tidegate::offshore {
namespace {

// Sealed updates of scripted sites, as the coordinator has them at quorum.
class SumUpdatesTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kSites = 9;

  void SetUp() override {
    protocols::JobManifest m;
    m.name.text = "sum";
    m.codec = protocols::Codec::kInt8;
    m.phase_groups.items = {3};
    m.rounds = 1;
    // Chunk ends, group ends and tensor ends all lie apart.
    m.layout.tensors.items = {{"a", 1, 300, 0}, {"b", 3, 90001, 1}, {"c", 1, 40000, 0}};
    job_ = FactsOf({}, m);
    for (uint32_t i = 0; i < kSites; ++i) Seal(i, m);
  }

  void Seal(uint32_t i, const protocols::JobManifest& m) {
    FakeSite site("site" + std::to_string(i), coordinator_.verify_key());
    site.job = m;
    site.job_id = job_.id;
    site.parameters.assign(job_.values, 0.0f);
    protocols::RoundAnnouncement round;
    const auto key = recipient_.public_key().bytes();
    std::copy(key.begin(), key.end(), round.recipient.begin());
    site.rounds[1] = round;
    const FakeSite::Spool& spool = site.Make(1);
    for (size_t b = 0; b < spool.blocks.size(); ++b) {
      blocks_[spool.release.blocks.items[b]] = spool.blocks[b];
    }
    federation::StoredUpdate update;
    update.key = spool.release.key;
    update.weight = 1 + 10 * i;
    update.release = spool.offer.release;
    updates_.push_back(update);
  }

  Result<Bytes> Read(const Digest& id) const { return blocks_.at(id); }

  Result<std::vector<int64_t>> Sum(unsigned threads) {
    const auto sum = SumUpdates(
        updates_, job_, recipient_, [this](const Digest& id) { return Read(id); }, threads);
    if (!sum) return Unexpected(sum.error());
    return std::vector<int64_t>(sum->sum().begin(), sum->sum().end());
  }

  crypto::SigningKey coordinator_ = *crypto::SigningKey::Generate();
  crypto::AgreeSecretKey recipient_ = *crypto::AgreeSecretKey::Generate();
  JobFacts job_;
  std::map<Digest, Bytes> blocks_;
  std::vector<federation::StoredUpdate> updates_;
};

// More sites than are open at once, and not a multiple of that.
TEST_F(SumUpdatesTest, IsTheSumOfTheOpenedUpdatesOnAnyNumberOfThreads) {
  federation::WeightedSum expected(job_.values);
  for (const auto& update : updates_) {
    const auto release =
        protocols::Decode<protocols::ReleaseManifest>(update.release.body.items).value();
    const Bytes plain = OpenUpdate(release, job_, recipient_, [this](const Digest& id) {
                          return Read(id);
                        }).value();
    const auto view = protocols::UpdateView::Parse(plain, job_.manifest.layout).value();
    ASSERT_TRUE(expected.Add(view, update.weight).ok());
  }
  const std::vector<int64_t> sum(expected.sum().begin(), expected.sum().end());
  EXPECT_NE(sum[0], 0);
  for (const unsigned threads : {1u, 2u, 3u, 16u}) {
    const auto got = Sum(threads);
    ASSERT_TRUE(got.has_value()) << got.error().ToString();
    EXPECT_EQ(*got, sum) << threads << " threads";
  }
}

TEST_F(SumUpdatesTest, ADamagedBlockIsFoundByItsTagAndTheFirstSitesErrorIsTold) {
  for (const uint32_t site : {7u, 4u}) {
    const auto release =
        protocols::Decode<protocols::ReleaseManifest>(updates_[site].release.body.items).value();
    blocks_.at(release.blocks.items.back())[100 + site] ^= 1;
    const auto sum = Sum(2);
    ASSERT_FALSE(sum.has_value());
    EXPECT_EQ(sum.error().code(), Code::kUnauthenticated);
    EXPECT_THAT(std::string(sum.error().message()), ::testing::HasSubstr("chunk"));
  }
}

TEST_F(SumUpdatesTest, NoUpdatesSumToNothing) {
  updates_.clear();
  EXPECT_EQ(*Sum(2), std::vector<int64_t>(job_.values, 0));
}

}  // namespace
}  // namespace tidegate::offshore
