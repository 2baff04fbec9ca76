// A site's part of a job, round by round, without processes: what it trains, keeps and refuses.
#include "onshore/trainer/federated_job.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "site_samples.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;

struct Evaluated {
  uint32_t version;
  double before, after;
  bool kept;
};

class Job : public testing::Test {
 protected:
  std::unique_ptr<FederatedJob> Open(const protocols::JobManifest& job) {
    Progress progress;
    progress.evaluated = [this](uint32_t version, double before, double after, bool kept) {
      evaluated_.push_back({version, before, after, kept});
    };
    progress.trained = [this](uint32_t round, int64_t, double) { trained_.push_back(round); };
    auto opened = FederatedJob::Open(protocols::Encode(job), site_.options(), std::move(progress));
    EXPECT_TRUE(opened) << opened.error().ToString();
    return opened ? std::move(*opened) : nullptr;
  }
  Status WhyNot(const protocols::JobManifest& job) {
    const auto opened = FederatedJob::Open(protocols::Encode(job), site_.options(), {});
    return opened ? OkStatus() : opened.error();
  }
  static onshore::RoundStart Start(const FederatedJob& job, uint32_t round, uint32_t version) {
    return {.job = job.id(),
            .round = round,
            .adapter_version = version,
            .train_loss = true,
            .heldout_loss = true};
  }
  std::string Kept() const {
    const auto text = ReadFile(site_.trainer() / "adapter" / "adapter_model.safetensors", 1 << 24);
    return text ? std::string(AsText(*text)) : "";
  }

  SampleSite site_;
  std::vector<Evaluated> evaluated_;
  std::vector<uint32_t> trained_;
};

TEST_F(Job, ARoundGivesAnUpdateOfTheLayoutAndSaysSo) {
  const protocols::JobManifest manifest = SampleJob();
  const auto job = Open(manifest);
  ASSERT_NE(job, nullptr);
  ASSERT_TRUE(job->SetAdapter(0, BytesOf(InitialParameters())).ok());
  const auto update = job->RunRound(Start(*job, 1, 0));
  ASSERT_TRUE(update) << update.error().ToString();
  const auto view = protocols::UpdateView::Parse(*update, manifest.layout);
  ASSERT_TRUE(view.has_value());
  const protocols::UpdateHeader& header = view->header();
  EXPECT_EQ(header.job, IdOf(manifest));
  EXPECT_EQ(header.round, 1u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(header.site.data())), "north");
  EXPECT_EQ(header.base_hash, manifest.base_hash);
  EXPECT_GT(view->L2Norm(), 0);
  EXPECT_GT(header.weight, 1u) << "trained tokens";
  EXPECT_LE(header.weight, manifest.max_weight);
  EXPECT_GT(header.metrics.train_loss_milli, 0u);
  // The held-out loss that goes out is that of the adapter the round started from.
  ASSERT_EQ(evaluated_.size(), 1u);
  EXPECT_NEAR(header.metrics.heldout_loss_milli, evaluated_[0].after * 1000, 1);
  EXPECT_EQ(trained_, (std::vector<uint32_t>{1}));
  const std::string rounds = *ReadTextFile(site_.job_dir(manifest) / "rounds.jsonl", 1 << 16);
  EXPECT_EQ(std::count(rounds.begin(), rounds.end(), '\n'), 1);
  EXPECT_EQ(nlohmann::json::parse(rounds)["weight"], header.weight);

  EXPECT_EQ(*job->RunRound(Start(*job, 1, 0)), *update) << "asked again: the same bytes";
  EXPECT_EQ(trained_.size(), 1u) << "and nothing trained again";
  const auto early = job->RunRound(Start(*job, 2, 1));
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(early.error().message().find("version 1, which is not here"), std::string::npos);
}

TEST_F(Job, ASharedAdapterThatIsWorseOnTheHeldOutRecordsIsNotKept) {
  const protocols::JobManifest manifest = SampleJob();
  const auto job = Open(manifest);
  ASSERT_NE(job, nullptr);
  const std::vector<float> first = InitialParameters();
  ASSERT_TRUE(job->SetAdapter(0, BytesOf(first)).ok());
  const std::string initial = Kept();
  EXPECT_NE(initial, "") << "the first one is the best so far";
  const auto update = job->RunRound(Start(*job, 1, 0));
  ASSERT_TRUE(update) << update.error().ToString();
  ASSERT_TRUE(job->SetAdapter(1, BytesOf(Applied(first, *update, manifest.layout))).ok());
  const std::string better = Kept();
  EXPECT_NE(better, initial);
  std::vector<float> bad(first.size(), 0.25f);
  ASSERT_TRUE(job->SetAdapter(2, BytesOf(bad)).ok());
  EXPECT_EQ(Kept(), better) << "a worse one changes no byte of it";
  ASSERT_TRUE(job->RunRound(Start(*job, 3, 2))) << "the round goes on from it all the same";

  ASSERT_EQ(evaluated_.size(), 3u);
  EXPECT_TRUE(evaluated_[0].kept && evaluated_[1].kept);
  EXPECT_FALSE(evaluated_[2].kept);
  EXPECT_LT(evaluated_[1].after, evaluated_[1].before);
  EXPECT_GT(evaluated_[2].after, evaluated_[2].before);
  EXPECT_EQ(evaluated_[2].before, evaluated_[1].after);
  const auto loaded = model::LoadPeft(site_.trainer() / "adapter",
                                      model::LoadHfConfig(kTinyBase / "config.json").value());
  EXPECT_TRUE(loaded) << loaded.error().ToString();
}

TEST_F(Job, ALaterJobDoesNotReplaceABetterAdapterOfAnEarlierOne) {
  const protocols::JobManifest earlier = SampleJob();
  {
    const auto job = Open(earlier);
    ASSERT_NE(job, nullptr);
    ASSERT_TRUE(job->SetAdapter(0, BytesOf(InitialParameters())).ok());
    const auto update = job->RunRound(Start(*job, 1, 0));
    ASSERT_TRUE(update);
    ASSERT_TRUE(
        job->SetAdapter(1, BytesOf(Applied(InitialParameters(), *update, earlier.layout))).ok());
  }
  const std::string learnt = Kept();
  protocols::JobManifest later = earlier;
  later.name = "triage-2";
  const auto job = Open(later);
  ASSERT_NE(job, nullptr);
  ASSERT_TRUE(job->SetAdapter(0, BytesOf(InitialParameters())).ok());
  EXPECT_FALSE(evaluated_.back().kept);
  EXPECT_EQ(Kept(), learnt);
  // An adapter that is not there is no better one.
  fs::remove_all(site_.trainer() / "adapter");
  const auto again = Open(later);
  ASSERT_NE(again, nullptr);
  ASSERT_TRUE(again->SetAdapter(0, BytesOf(InitialParameters())).ok());
  EXPECT_TRUE(evaluated_.back().kept);
  EXPECT_NE(Kept(), "");
}

TEST_F(Job, WithoutHeldOutRecordsNothingIsJudged) {
  site_.options().heldout.clear();
  const protocols::JobManifest manifest = SampleJob();
  const auto job = Open(manifest);
  ASSERT_NE(job, nullptr);
  ASSERT_TRUE(job->SetAdapter(0, BytesOf(InitialParameters())).ok());
  const auto update = job->RunRound(Start(*job, 1, 0));
  ASSERT_TRUE(update) << update.error().ToString();
  EXPECT_TRUE(evaluated_.empty());
  const auto view = protocols::UpdateView::Parse(*update, manifest.layout);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->header().metrics.heldout_loss_milli, 0u);
}

TEST_F(Job, AJobForAnotherBaseOrLayoutIsRefusedBeforeAnythingIsWritten) {
  protocols::JobManifest other = SampleJob();
  other.base_hash[0] ^= 1;
  Status status = WhyNot(other);
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_NE(status.message().find(ToHex(other.base_hash)), std::string::npos);
  EXPECT_NE(status.message().find(ToHex(SampleJob().base_hash)), std::string::npos);
  EXPECT_NE(status.message().find("give the site the job's base"), std::string::npos);
  EXPECT_FALSE(fs::exists(site_.trainer()));

  other = SampleJob();
  other.layout.tensors.items.pop_back();
  EXPECT_EQ(WhyNot(other).code(), Code::kFailedPrecondition);
  EXPECT_NE(WhyNot(other).message().find("layout"), std::string::npos);
  other = SampleJob();
  other.max_length = 300;
  EXPECT_NE(WhyNot(other).message().find("256 positions"), std::string::npos);

  Bytes cut = protocols::Encode(SampleJob());
  cut.pop_back();
  EXPECT_EQ(FederatedJob::Open(cut, site_.options(), {}).error().code(), Code::kDataLoss);
}

TEST_F(Job, AnAdapterThatIsNotOfTheLayoutOrTheGridIsRefused) {
  const auto job = Open(SampleJob());
  ASSERT_NE(job, nullptr);
  Bytes bytes = BytesOf(InitialParameters());
  bytes.resize(bytes.size() - 4);
  EXPECT_EQ(job->SetAdapter(0, bytes).code(), Code::kDataLoss);
  for (const float bad : {0x1p-29f, NAN, INFINITY, 4.0f}) {
    std::vector<float> values = InitialParameters();
    values[17] = bad;
    const Status status = job->SetAdapter(0, BytesOf(values));
    EXPECT_FALSE(status.ok()) << bad;
  }
  EXPECT_FALSE(job->version().has_value());
  EXPECT_EQ(Kept(), "");
}

TEST_F(Job, ALossThatIsNotFiniteIsAFailureAndNoUpdate) {
  protocols::JobManifest manifest = SampleJob();
  manifest.learning_rate = 100;
  manifest.max_grad_norm = 0;
  manifest.local_steps = 20;
  // Started again it fails again: nothing of the round was kept.
  for (int start = 0; start < 2; ++start) {
    const auto job = Open(manifest);
    ASSERT_NE(job, nullptr);
    ASSERT_TRUE(job->SetAdapter(0, BytesOf(InitialParameters())).ok());
    const auto update = job->RunRound(Start(*job, 1, 0));
    ASSERT_FALSE(update);
    EXPECT_EQ(update.error().code(), Code::kFailedPrecondition) << update.error().ToString();
    EXPECT_NE(update.error().message().find("not finite"), std::string::npos);
    EXPECT_TRUE(trained_.empty());
    EXPECT_FALSE(fs::exists(site_.job_dir(manifest) / "rounds.jsonl"));
    EXPECT_FALSE(fs::exists(site_.job_dir(manifest) / "state"));
  }
}

TEST_F(Job, ParametersBeyondTheGridAreAFailureAndNoUpdate) {
  protocols::JobManifest manifest = SampleJob();
  manifest.learning_rate = 20;
  manifest.local_steps = 1;
  const auto job = Open(manifest);
  ASSERT_NE(job, nullptr);
  ASSERT_TRUE(job->SetAdapter(0, BytesOf(InitialParameters())).ok());
  const auto update = job->RunRound(Start(*job, 1, 0));
  ASSERT_FALSE(update);
  EXPECT_EQ(update.error().code(), Code::kFailedPrecondition) << update.error().ToString();
  EXPECT_NE(update.error().message().find("lower the learning rate"), std::string::npos);
}

// Another site has pushed values to the end of the grid: this one's steps from there are no
// divergence of its own.
TEST_F(Job, FromAVersionAtTheEndOfTheGridAnUpdateIsMade) {
  protocols::JobManifest manifest = SampleJob();
  manifest.learning_rate = 1e-2;
  const auto job = Open(manifest);
  ASSERT_NE(job, nullptr);
  std::vector<float> start = InitialParameters();
  for (size_t i = 0; i < start.size(); i += 5) {
    start[i] = i % 2 == 0 ? federation::kLargestOnGrid : -federation::kLargestOnGrid;
  }
  ASSERT_TRUE(job->SetAdapter(0, BytesOf(start)).ok());
  const auto update = job->RunRound(Start(*job, 1, 0));
  ASSERT_TRUE(update.has_value()) << update.error().ToString();
  std::vector<float> result = Applied(start, *update, manifest.layout);
  size_t stayed = 0, left = 0;
  for (size_t i = 0; i < start.size(); i += 5) (result[i] == start[i] ? stayed : left) += 1;
  EXPECT_GT(stayed, 0u) << "or nothing went outwards";
  EXPECT_GT(left, 0u);
  EXPECT_TRUE(federation::SnapAllToGrid(result).ok());
}

}  // namespace
}  // namespace tidegate::trainer
