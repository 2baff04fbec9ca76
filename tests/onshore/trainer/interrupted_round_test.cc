// Rounds that do not go from their first step to their last in one go: paused for a stop, dropped
// because the coordinator abandoned them.
#include <gtest/gtest.h>

#include "onshore/trainer/federated_job.h"
#include "site_samples.h"
#include "train/checkpoint.h"

namespace tidegate::trainer {
namespace {

constexpr int kLocalSteps = 5;

protocols::JobManifest Manifest() {
  protocols::JobManifest job = SampleJob();
  job.local_steps = kLocalSteps;
  return job;
}

class InterruptedRound : public testing::Test {
 protected:
  // As a trainer that was started: all it knows of earlier rounds is on disk.
  std::unique_ptr<FederatedJob> Open(SampleSite& site) {
    Progress progress;
    progress.wish = [this](uint32_t) { return ++asked_ == at_ ? wish_ : RoundWish::kGoOn; };
    auto opened =
        FederatedJob::Open(protocols::Encode(Manifest()), site.options(), std::move(progress));
    EXPECT_TRUE(opened) << opened.error().ToString();
    return opened ? std::move(*opened) : nullptr;
  }
  // Runs a round; `wish` comes after its step `at` of this run, 0: never.
  Result<Bytes> Run(FederatedJob& job, uint32_t round, uint32_t version,
                    RoundWish wish = RoundWish::kGoOn, int at = 0) {
    wish_ = wish;
    at_ = at;
    asked_ = 0;
    std::vector<float> parameters = InitialParameters();
    parameters[0] += 0x1p-4f * static_cast<float>(version);
    const Status set = job.SetAdapter(version, BytesOf(parameters));
    EXPECT_TRUE(set.ok()) << set.ToString();
    return job.RunRound({.job = job.id(), .round = round, .adapter_version = version});
  }
  static bool Left(const Result<Bytes>& result) {
    return !result && result.error().code() == Code::kCancelled;
  }
  static std::vector<int64_t> StatesOf(const SampleSite& site) {
    return *train::CheckpointStore(site.job_dir(Manifest()) / "state").Steps();
  }

  RoundWish wish_ = RoundWish::kGoOn;
  int at_ = 0, asked_ = 0;
  SampleSite undisturbed_, site_;
};

TEST_F(InterruptedRound, GoesOnFromTheStepWhereItWasPausedWithTheSameBits) {
  const auto whole = Open(undisturbed_);
  const Bytes first = *Run(*whole, 1, 0), second = *Run(*whole, 2, 1);
  EXPECT_EQ(asked_, kLocalSteps - 1) << "after the last step there is nothing to pause";
  for (int at = 1; at < kLocalSteps; ++at) {
    SampleSite site;
    EXPECT_TRUE(Left(Run(*Open(site), 1, 0, RoundWish::kPause, at)));
    EXPECT_EQ(StatesOf(site).back(), at) << "its state is on disk";
    const auto job = Open(site);
    EXPECT_TRUE(*Run(*job, 1, 0) == first) << "paused after step " << at;
    EXPECT_EQ(asked_, kLocalSteps - 1 - at) << "the steps before were not done again";
    EXPECT_TRUE(*Run(*job, 2, 1) == second) << "paused after step " << at;
  }
}

TEST_F(InterruptedRound, MayBePausedAtEachStepAndKilledInBetween) {
  const auto whole = Open(undisturbed_);
  ASSERT_TRUE(Run(*whole, 1, 0).has_value());
  const Bytes second = *Run(*whole, 2, 1);
  ASSERT_TRUE(Run(*Open(site_), 1, 0).has_value());
  for (int step = 1; step < kLocalSteps; ++step) {
    EXPECT_TRUE(Left(Run(*Open(site_), 2, 1, RoundWish::kPause, 1)));
    EXPECT_EQ(StatesOf(site_), (std::vector<int64_t>{kLocalSteps, kLocalSteps + step}))
        << "the state before the round, and that of now";
    // A kill leaves what a drop leaves: nothing of what came after the pause.
    if (step + 1 == kLocalSteps) continue;
    EXPECT_TRUE(Left(Run(*Open(site_), 2, 1, RoundWish::kDrop, 1)));
  }
  EXPECT_TRUE(*Run(*Open(site_), 2, 1) == second);
}

TEST_F(InterruptedRound, APauseWhoseStateWasLostBeginsTheRoundAgain) {
  const Bytes first = *Run(*Open(undisturbed_), 1, 0);
  EXPECT_TRUE(Left(Run(*Open(site_), 1, 0, RoundWish::kPause, 3)));
  std::filesystem::remove_all(site_.job_dir(Manifest()) / "state");
  EXPECT_TRUE(*Run(*Open(site_), 1, 0) == first);
}

// The coordinator opens another round on the same version: as if the abandoned one had not been.
TEST_F(InterruptedRound, AnAbandonedRoundLeavesNoTrace) {
  const auto whole = Open(undisturbed_);
  ASSERT_TRUE(Run(*whole, 1, 0).has_value());
  const Bytes third = *Run(*whole, 3, 1), fourth = *Run(*whole, 4, 2);

  const auto drop_at = [&](SampleSite& site, const char* what, auto&& abandoned) {
    SCOPED_TRACE(what);
    auto job = Open(site);
    ASSERT_TRUE(Run(*job, 1, 0).has_value());
    abandoned(job);
    EXPECT_TRUE(*Run(*job, 3, 1) == third);
    EXPECT_TRUE(*Run(*job, 4, 2) == fourth);
  };
  SampleSite dropped, paused, trained, restarted;
  drop_at(dropped, "dropped in the middle",
          [&](auto& job) { EXPECT_TRUE(Left(Run(*job, 2, 1, RoundWish::kDrop, 2))); });
  drop_at(paused, "paused, then abandoned while the trainer was away", [&](auto& job) {
    EXPECT_TRUE(Left(Run(*job, 2, 1, RoundWish::kPause, 2)));
    job = Open(paused);
  });
  drop_at(trained, "abandoned after it was trained",
          [&](auto& job) { EXPECT_TRUE(Run(*job, 2, 1).has_value()); });
  drop_at(restarted, "abandoned after it was trained, and a restart", [&](auto& job) {
    EXPECT_TRUE(Run(*job, 2, 1).has_value());
    job = Open(restarted);
  });
}

// A round that ended without this site, at a quorum: the site did not finish it.
TEST_F(InterruptedRound, ARoundThatEndedWithoutThisSiteLeavesNoTrace) {
  const auto whole = Open(undisturbed_);
  ASSERT_TRUE(Run(*whole, 1, 0).has_value());
  const Bytes third = *Run(*whole, 3, 2);
  const auto job = Open(site_);
  ASSERT_TRUE(Run(*job, 1, 0).has_value());
  EXPECT_TRUE(Left(Run(*job, 2, 1, RoundWish::kDrop, 4)));
  EXPECT_TRUE(*Run(*job, 3, 2) == third);
}

TEST_F(InterruptedRound, AnEvaluationThatIsToStopIsCutShort) {
  Progress progress;
  progress.stop = [] { return true; };
  const auto job =
      FederatedJob::Open(protocols::Encode(Manifest()), site_.options(), std::move(progress));
  ASSERT_TRUE(job.has_value());
  EXPECT_EQ((*job)->SetAdapter(0, BytesOf(InitialParameters())).code(), Code::kCancelled);
}

}  // namespace
}  // namespace tidegate::trainer
