// Error feedback over the rounds of a site: what a round adds to its delta, by what became of the
// one before. Beside it runs the same job with an exact codec, which says what the deltas are.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "federation/shared/delta_codec.h"
#include "onshore/trainer/federated_job.h"
#include "onshore/trainer/residual_file.h"
#include "protocols/strategy.h"
#include "site_samples.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;

using Values = std::vector<double>;

struct Step {
  uint32_t round = 0, version = 0, counted = 0;
  double norm_clip = 0;
};

class ErrorFeedback : public testing::Test {
 protected:
  static protocols::JobManifest Manifest(bool exact, std::vector<uint8_t> phases = {3}) {
    protocols::JobManifest job = SampleJob();
    job.codec = exact ? protocols::Codec::kFixed32 : protocols::Codec::kInt4;
    job.error_feedback = !exact;
    job.late = exact ? protocols::LateRule::kDiscard : protocols::LateRule::kCarry;
    if (phases.size() > 1) job.strategy = protocols::Strategy::kRoLora;
    job.phase_groups.items = std::move(phases);
    return job;
  }
  static Bytes Version(uint32_t version) {
    std::vector<float> parameters = InitialParameters();
    parameters[0] += 0x1p-4f * static_cast<float>(version);
    return BytesOf(parameters);
  }
  Bytes Run(FederatedJob& job, const Step& step, size_t phases = 1) {
    EXPECT_TRUE(job.SetAdapter(step.version, Version(step.version)).ok());
    auto update = job.RunRound({.job = job.id(),
                                .round = step.round,
                                .phase = static_cast<uint8_t>((step.round - 1) % phases),
                                .adapter_version = step.version,
                                .norm_clip = step.norm_clip,
                                .counted_round = step.counted});
    EXPECT_TRUE(update) << update.error().ToString();
    return update ? *update : Bytes();
  }
  static std::unique_ptr<FederatedJob> Open(const SampleSite& site,
                                            const protocols::JobManifest& job) {
    auto opened =
        FederatedJob::Open(protocols::Encode(job), const_cast<SampleSite&>(site).options(), {});
    EXPECT_TRUE(opened) << opened.error().ToString();
    return opened ? std::move(*opened) : nullptr;
  }
  static Values Decoded(const Bytes& update) {
    const auto view = protocols::UpdateView::Parse(update, SampleJob().layout);
    EXPECT_TRUE(view.has_value()) << view.error().reason;
    Values values(InitialParameters().size(), 0.0);
    if (!view) return values;
    for (const auto& tensor : view->tensors()) {
      protocols::ForEachValue(tensor, [&values](uint64_t i, double value) { values[i] = value; });
    }
    return values;
  }
  // The update that these values make, with the header of `like`; `v` is scaled as it was.
  static Bytes Encoded(const Bytes& like, Values* v, double norm_clip = 0) {
    const auto header = protocols::ReadUpdateHeader(like);
    EXPECT_TRUE(header.has_value());
    return *federation::EncodeDelta(*header, SampleJob().layout, *v, {.norm_clip = norm_clip});
  }
  // Runs the steps in both jobs, each in a process of its own as it were; the updates, and the
  // deltas that the exact one tells.
  void RunAll(const std::vector<Step>& steps, std::vector<uint8_t> phases = {3}) {
    for (const Step& step : steps) {
      const size_t count = phases.size();
      updates_.push_back(Run(*Open(site_, Manifest(false, phases)), step, count));
      Step exact = step;
      exact.norm_clip = 0;
      deltas_.push_back(Decoded(Run(*Open(twin_, Manifest(true, phases)), exact, count)));
    }
  }
  // What is left of v, as a file keeps it.
  static Values Left(const Values& v, const Values& sent) {
    Values left(v.size());
    for (size_t i = 0; i < v.size(); ++i) left[i] = static_cast<float>(v[i] - sent[i]);
    return left;
  }
  static Values Sum(Values a, const Values& b) {
    for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  }
  std::set<std::string> Files(const protocols::JobManifest& job) const {
    std::set<std::string> names;
    for (const auto& entry :
         fs::directory_iterator(const_cast<SampleSite&>(site_).job_dir(job) / "residual")) {
      names.insert(entry.path().filename().native());
    }
    return names;
  }

  SampleSite site_, twin_;
  std::vector<Bytes> updates_;
  std::vector<Values> deltas_;
};

TEST_F(ErrorFeedback, ACountedRoundLeavesWhatItsCodecLost) {
  RunAll({{1, 0, 0}, {2, 1, 1}, {3, 2, 2}});
  Values v = deltas_[0];
  EXPECT_TRUE(Encoded(updates_[0], &v) == updates_[0]) << "there is nothing to feed back yet";
  for (size_t i = 1; i < 3; ++i) {
    v = Sum(deltas_[i], Left(v, Decoded(updates_[i - 1])));
    EXPECT_TRUE(Encoded(updates_[i], &v) == updates_[i]) << "round " << i + 1;
    Values alone = deltas_[i];
    EXPECT_FALSE(Encoded(updates_[i], &alone) == updates_[i]) << "the residual is seen";
  }
  EXPECT_EQ(Files(Manifest(false)), (std::set<std::string>{"kept-2", "kept-3", "carried-3"}))
      << "what the round began with, and what it leaves";
}

TEST_F(ErrorFeedback, ALateRoundIsCarriedWhole) {
  // Rounds 1 and 2 come too late; 3 is counted.
  RunAll({{1, 0, 0}, {2, 1, 0}, {3, 2, 0}, {4, 3, 3}});
  const Values nothing(deltas_[0].size(), 0.0);
  Values v = deltas_[0];
  for (size_t i = 1; i < 3; ++i) {
    v = Sum(deltas_[i], Left(v, nothing));
    EXPECT_TRUE(Encoded(updates_[i], &v) == updates_[i]) << "round " << i + 1;
  }
  v = Sum(deltas_[3], Left(v, Decoded(updates_[2])));
  EXPECT_TRUE(Encoded(updates_[3], &v) == updates_[3]);
}

TEST_F(ErrorFeedback, AnAbandonedRoundLeavesNoTrace) {
  // Round 2 publishes no version: 3 starts from the same one, and from the same residual.
  RunAll({{1, 0, 0}, {2, 1, 1}, {3, 1, 1}, {4, 2, 3}});
  SampleSite undisturbed;
  for (const Step& step : {Step{1, 0, 0}, {3, 1, 1}, {4, 2, 3}}) {
    const Bytes update = Run(*Open(undisturbed, Manifest(false)), step);
    EXPECT_TRUE(update == updates_[step.round - 1]) << "round " << step.round;
  }
}

TEST_F(ErrorFeedback, IsClippedAfterItWasAdded) {
  const double clip = 0.02;
  RunAll({{1, 0, 0, clip}, {2, 1, 1, clip}, {3, 2, 1, clip}});
  Values v = deltas_[0];
  EXPECT_TRUE(Encoded(updates_[0], &v, clip) == updates_[0]);
  double norm = 0;
  for (const double x : deltas_[0]) norm += x * x;
  EXPECT_GT(std::sqrt(norm), 2 * clip) << "or nothing is clipped here";
  v = Sum(deltas_[1], Left(v, Decoded(updates_[0])));
  EXPECT_TRUE(Encoded(updates_[1], &v, clip) == updates_[1]);
  // Late: what is carried is what was within the clip.
  v = Sum(deltas_[2], Left(v, Values(v.size(), 0.0)));
  EXPECT_TRUE(Encoded(updates_[2], &v, clip) == updates_[2]);
  for (const Bytes& update : updates_) {
    EXPECT_LE(protocols::UpdateView::Parse(update, SampleJob().layout)->L2Norm(), clip);
  }
}

TEST_F(ErrorFeedback, EachPhaseHasItsOwn) {
  RunAll({{1, 0, 0}, {2, 1, 1}, {3, 2, 2}}, protocols::PhasesOf(protocols::Strategy::kRoLora));
  Values first = deltas_[0], second = deltas_[1];
  EXPECT_TRUE(Encoded(updates_[0], &first) == updates_[0]);
  EXPECT_TRUE(Encoded(updates_[1], &second) == updates_[1]) << "A has lost nothing yet";
  Values v = Sum(deltas_[2], Left(first, Decoded(updates_[0])));
  EXPECT_TRUE(Encoded(updates_[2], &v) == updates_[2]) << "B goes on from round 1";
  EXPECT_EQ(Files(Manifest(false, {2, 1})),
            (std::set<std::string>{"kept-1", "kept-2", "kept-3", "carried-3"}));
}

TEST_F(ErrorFeedback, ADamagedResidualIsNamedAndARemovedOneIsNothing) {
  const protocols::JobManifest job = Manifest(false);
  RunAll({{1, 0, 0}});
  const fs::path file = site_.job_dir(job) / "residual" / KeptName(1);
  const Bytes good = *ReadFile(file, 1 << 24);
  for (const size_t at : {size_t{0}, size_t{9}, good.size() - 1}) {
    Bytes bad = good;
    bad[at] ^= 1;
    ASSERT_TRUE(WriteFileDurably(file, bad).ok());
    const auto opened = Open(site_, job);
    ASSERT_TRUE(opened->SetAdapter(1, Version(1)).ok());
    const auto update = opened->RunRound(
        {.job = opened->id(), .round = 2, .adapter_version = 1, .counted_round = 1});
    ASSERT_FALSE(update);
    EXPECT_EQ(update.error().code(), Code::kDataLoss);
    EXPECT_NE(update.error().message().find(file.native() + " is damaged; remove it"),
              std::string::npos)
        << update.error().message();
  }
  fs::remove(file);
  RunAll({{2, 1, 1}});
  Values v = deltas_[1];
  EXPECT_TRUE(Encoded(updates_[1], &v) == updates_[1]);
}

TEST_F(ErrorFeedback, ChanceIsTheSameForTheSameRoundAndAnotherForAnotherSite) {
  protocols::JobManifest job = Manifest(false);
  job.rounding = protocols::Rounding::kStochastic;
  const Bytes once = Run(*Open(site_, job), {1, 0, 0});
  EXPECT_TRUE(Run(*Open(site_, job), {1, 0, 0}) == once);
  EXPECT_TRUE(Run(*Open(twin_, job), {1, 0, 0}) == once) << "the same site, elsewhere";
  SampleSite other;
  other.options().name = "south";
  EXPECT_FALSE(Decoded(Run(*Open(other, job), {1, 0, 0})) == Decoded(once));
}

}  // namespace
}  // namespace tidegate::trainer
