// Each strategy at one site, with and without a local adapter, against local training under the
// same freezing: a session that is driven by hand, whose frozen tensors are told by their names
// alone.
#include <gtest/gtest.h>

#include <algorithm>

#include "finetune/session.h"
#include "onshore/trainer/adapter_view.h"
#include "onshore/trainer/federated_job.h"
#include "protocols/strategy.h"
#include "site_samples.h"

namespace tidegate::trainer {
namespace {

using protocols::Strategy;

constexpr uint32_t kRounds = 4, kLocalRank = 3;

struct Asked {
  Strategy strategy;
  uint32_t local_r;
  double mu = 0;
};

protocols::JobManifest JobOf(const Asked& asked) {
  protocols::JobManifest job = SampleJob();
  job.strategy = asked.strategy;
  job.phase_groups.items = protocols::PhasesOf(asked.strategy);
  job.local_lora_r = asked.local_r;
  job.proximal_mu = asked.mu;
  job.rounds = kRounds;
  return job;
}

// One trained value: which shared value it is, or none where it is the local adapter's.
struct Place {
  int64_t shared = -1;
  bool is_b = false;
};

// The trained buffer's values one by one, from shapes alone: A's rows and B's columns below r are
// the shared adapter's.
std::vector<Place> PlacesOf(const model::ModelConfig& base, const model::LoraConfig& trained) {
  std::vector<Place> places;
  int64_t next = 0;
  for (const model::AdapterTensor& t : model::AdapterLayout(base, trained)) {
    for (int64_t row = 0; row < t.rows; ++row) {
      for (int64_t col = 0; col < t.cols; ++col) {
        const bool shared = (t.is_b ? col : row) < SampleLora().r;
        places.push_back({shared ? next++ : -1, t.is_b});
      }
    }
  }
  return places;
}

// Local training: `train` says of a place whether the round trains it.
class Twin {
 public:
  Twin(const protocols::JobManifest& job, const SiteOptions& options) {
    auto config = ConfigOf(job, IdOf(job), options);
    EXPECT_TRUE(config.has_value());
    config->output_dir = options.site / "twin";
    auto session = finetune::Session::Open(*config);
    EXPECT_TRUE(session.has_value()) << session.error().ToString();
    session_ = std::move(*session);
    places_ = PlacesOf(session_->base().config, finetune::LoraOf(session_->config()).value());
    EXPECT_EQ(places_.size(), session_->state().parameters.size());
  }

  template <typename F>
  train::Ranges RangesWhere(F&& take) const {
    train::Ranges ranges;
    for (size_t i = 0; i < places_.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      if (!take(places_[i])) continue;
      if (!ranges.empty() && ranges.back().end == at) {
        ++ranges.back().end;
      } else {
        ranges.push_back({at, at + 1});
      }
    }
    return ranges;
  }
  void Put(const std::vector<float>& shared, bool keep_b) {
    std::vector<float> parameters = session_->state().parameters;
    for (size_t i = 0; i < places_.size(); ++i) {
      if (places_[i].shared >= 0 && !(keep_b && places_[i].is_b)) {
        parameters[i] = shared[static_cast<size_t>(places_[i].shared)];
      }
    }
    EXPECT_TRUE(session_->loop().SetParameters(parameters).ok());
  }
  // The shared values that the round shares, on the grid; the others as they were.
  std::vector<float> Take(std::vector<float> shared, bool a, bool b) const {
    for (size_t i = 0; i < places_.size(); ++i) {
      const Place& place = places_[i];
      if (place.shared < 0 || !(place.is_b ? b : a)) continue;
      shared[static_cast<size_t>(place.shared)] =
          federation::SnapToGrid(double{session_->state().parameters[i]});
    }
    return shared;
  }
  void Train(int64_t steps) {
    const Status status =
        session_->loop().RunSteps(steps, [](const train::StepResult&) { return true; });
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  finetune::Session& session() { return *session_; }

 private:
  std::unique_ptr<finetune::Session> session_;
  std::vector<Place> places_;
};

class Strategies : public testing::TestWithParam<Asked> {
 protected:
  const protocols::JobManifest job_ = JobOf(GetParam());
  SampleSite site_, twin_site_;

  std::unique_ptr<FederatedJob> Open() {
    auto opened = FederatedJob::Open(protocols::Encode(job_), site_.options(), {});
    EXPECT_TRUE(opened) << opened.error().ToString();
    return opened ? std::move(*opened) : nullptr;
  }
  Bytes Round(FederatedJob& job, uint32_t round, const std::vector<float>& start) {
    EXPECT_TRUE(job.SetAdapter(round - 1, BytesOf(start)).ok());
    auto update =
        job.RunRound({.job = job.id(),
                      .round = round,
                      .phase = static_cast<uint8_t>((round - 1) % job_.phase_groups.size()),
                      .adapter_version = round - 1,
                      .counted_round = round - 1});
    EXPECT_TRUE(update) << update.error().ToString();
    return update ? *update : Bytes();
  }
};

TEST_P(Strategies, OneSiteIsLocalTrainingBitForBit) {
  Twin twin(job_, twin_site_.options());
  const Strategy strategy = GetParam().strategy;
  std::vector<float> shared = InitialParameters(), expected = shared;
  for (uint32_t round = 1; round <= kRounds; ++round) {
    const std::vector<float> before = shared;
    // A process of its own each round: what lives on is on disk.
    shared = Applied(shared, Round(*Open(), round, shared), job_.layout);

    const bool a = strategy == Strategy::kFedIt || strategy == Strategy::kFedSaLora ||
                   (strategy == Strategy::kRoLora && round % 2 == 0);
    const bool b = strategy == Strategy::kFedIt || strategy == Strategy::kFfaLora ||
                   (strategy == Strategy::kRoLora && round % 2 == 1);
    const bool own_b = strategy == Strategy::kFedSaLora;
    twin.Put(expected, own_b);
    const auto is_a = [](const Place& p) { return p.shared >= 0 && !p.is_b; };
    const auto is_b = [](const Place& p) { return p.shared >= 0 && p.is_b; };
    const auto is_local = [](const Place& p) { return p.shared < 0; };
    if (strategy == Strategy::kFfaLora || strategy == Strategy::kRoLora) {
      std::vector<train::Ranges> parts = {twin.RangesWhere(is_a), twin.RangesWhere(is_b),
                                          twin.RangesWhere(is_local)};
      std::vector<size_t> trained = {b ? size_t{1} : size_t{0}};
      if (GetParam().local_r == 0) {
        parts.pop_back();
      } else {
        trained.push_back(2);
      }
      ASSERT_TRUE(twin.session().loop().SetParts(parts, trained).ok());
    }
    ASSERT_TRUE(twin.session()
                    .loop()
                    .SetProximal(GetParam().mu, twin.session().state().parameters,
                                 twin.RangesWhere([&](const Place& p) {
                                   return (a && is_a(p)) || (b && is_b(p));
                                 }))
                    .ok());
    twin.Train(job_.local_steps);
    expected = twin.Take(expected, a, b);
    ASSERT_EQ(shared, expected) << "version " << round;
    // A has no gradient while B is zero: the second round of RoLoRA is the first that moves it.
    EXPECT_NE(shared, before) << "version " << round;
    size_t at = 0;
    for (const protocols::LayoutTensor& t : job_.layout.tensors.items) {
      const size_t end = at + static_cast<size_t>(t.rows) * t.cols;
      const bool moves = t.group == protocols::kGroupA ? a : b;
      if (!moves) {
        EXPECT_TRUE(std::equal(shared.begin() + at, shared.begin() + end, before.begin() + at))
            << t.name.text << " is frozen in round " << round;
      }
      at = end;
    }
  }
}

// What is kept at the site is what generate loads: base, shared and the site's own, one PEFT
// folder.
TEST_P(Strategies, TheAdapterThatIsKeptHasTheSitesOwnPart) {
  std::vector<float> shared = InitialParameters();
  auto job = Open();
  for (uint32_t round = 1; round <= 2; ++round) {
    shared = Applied(shared, Round(*job, round, shared), job_.layout);
  }
  ASSERT_TRUE(job->SetAdapter(2, BytesOf(shared)).ok());
  const auto base = model::LoadHfConfig(kTinyBase / "config.json").value();
  const auto kept = model::LoadPeft(site_.trainer() / "adapter", base);
  ASSERT_TRUE(kept.has_value()) << kept.error().ToString();
  EXPECT_EQ(kept->lora().r, SampleLora().r + GetParam().local_r);
  EXPECT_DOUBLE_EQ(kept->lora().scale(), SampleLora().scale());
  double shared_b = 0, local_b = 0;
  const auto places = PlacesOf(base, kept->lora());
  for (size_t i = 0; i < places.size(); ++i) {
    if (!places[i].is_b) continue;
    (places[i].shared >= 0 ? shared_b : local_b) += std::abs(double{kept->parameters()[i]});
  }
  EXPECT_GT(shared_b, 0) << "of FedSA it is the site's own B";
  EXPECT_EQ(local_b > 0, GetParam().local_r > 0);
}

TEST_P(Strategies, AnUpdateHasTheRoundsGroupsAndNothingElse) {
  const std::vector<float> start = InitialParameters();
  const Bytes update = Round(*Open(), 1, start);
  const auto view = protocols::UpdateView::Parse(update, job_.layout);
  ASSERT_TRUE(view.has_value()) << view.error().reason;
  const uint8_t groups = protocols::PhasesOf(GetParam().strategy)[0];
  EXPECT_EQ(view->header().groups, groups);
  EXPECT_EQ(view->header().values, protocols::UpdateValues(job_.layout, groups));
}

std::string NameOf(const testing::TestParamInfo<Asked>& info) {
  static constexpr const char* kNames[] = {"", "FedIt", "FfaLora", "RoLora", "FedSaLora"};
  return std::string(kNames[static_cast<int>(info.param.strategy)]) +
         (info.param.local_r > 0 ? "WithLocal" : "") + (info.param.mu > 0 ? "Proximal" : "");
}

INSTANTIATE_TEST_SUITE_P(
    Each, Strategies,
    testing::Values(Asked{Strategy::kFedIt, 0}, Asked{Strategy::kFfaLora, 0},
                    Asked{Strategy::kRoLora, 0}, Asked{Strategy::kFedSaLora, 0},
                    Asked{Strategy::kFedIt, kLocalRank}, Asked{Strategy::kFfaLora, kLocalRank},
                    Asked{Strategy::kRoLora, kLocalRank}, Asked{Strategy::kFedSaLora, kLocalRank},
                    Asked{Strategy::kFedIt, 0, 0.1}, Asked{Strategy::kRoLora, kLocalRank, 0.1}),
    NameOf);

// A site that missed versions goes on in the schedule where the job is.
TEST(Schedule, GoesByTheJobsVersions) {
  SampleSite site;
  protocols::JobManifest job = SampleJob();
  job.rounds = 10;
  auto opened = FederatedJob::Open(protocols::Encode(job), site.options(), {});
  ASSERT_TRUE(opened.has_value()) << opened.error().ToString();
  const std::vector<float> start = InitialParameters();
  const auto run = [&](uint32_t round, uint32_t version) {
    EXPECT_TRUE((*opened)->SetAdapter(version, BytesOf(start)).ok());
    EXPECT_TRUE(
        (*opened)->RunRound({.job = (*opened)->id(), .round = round, .adapter_version = version}));
    const auto note = LoadRoundNote(site.job_dir(job));
    EXPECT_TRUE(note.has_value() && note->has_value());
    return (*note)->first_step;
  };
  EXPECT_EQ(run(1, 0), 0);
  EXPECT_EQ(run(2, 1), 3);
  EXPECT_EQ(run(7, 6), 18) << "it slept over five";
  EXPECT_EQ(run(8, 6), 18) << "round 7 was abandoned";
  EXPECT_EQ(run(9, 7), 21);
}

}  // namespace
}  // namespace tidegate::trainer
