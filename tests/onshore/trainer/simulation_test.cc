// Jobs with their sites played by one process: equal to what the sites would do by hand, the same
// whatever is kept in memory, and with rounds that ask, miss and abandon.
#include "onshore/trainer/simulation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <thread>

#include "cluster/thread_group.h"
#include "federation/job/job_file.h"
#include "federation/rounds/aggregate.h"
#include "federation/rounds/server_optimizer.h"
#include "finetune/dataset.h"
#include "onshore/trainer/federated_job.h"
#include "onshore/trainer/simulated_sites.h"
#include "protocols/strategy.h"
#include "site_samples.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;

constexpr const char* kShape =
    "[lora]\nr = 4\nalpha = 8\n[train]\nlocal_steps = 2\nbatch_size = 2\nmax_length = 64\n"
    "packing = false\nlearning_rate = 5e-3\n";

class SimulationTest : public testing::Test {
 protected:
  SimulationTest() {
    for (int i = 0; i < 10; ++i) {
      samples_.push_back(std::make_unique<SampleSite>());
      // Records of its own each.
      std::ofstream more(samples_.back()->options().records, std::ios::app);
      more << fmt::format("{{\"prompt\":\"who is {} \",\"completion\":\"site {}\"}}\n", i, i * i);
    }
  }
  SimulationOptions Options(const std::string& keys, size_t sites, const std::string& out) {
    SimulationOptions options;
    options.job_name = "job.toml";
    options.job_toml = keys + kShape;
    options.base = kTinyBase;
    options.out = samples_[0]->options().site / out;
    fs::create_directories(options.out);
    options.dtype = "f32";
    for (size_t i = 0; i < sites; ++i) {
      options.sites.push_back({fmt::format("site-{}", i), samples_[i]->options().records,
                               i < 2 ? samples_[i]->options().heldout : fs::path()});
    }
    return options;
  }
  static SimulationResult Run(const SimulationOptions& options) {
    auto result = Simulate(options);
    EXPECT_TRUE(result.has_value()) << result.error().ToString();
    return result ? *result : SimulationResult();
  }
  static std::vector<float> Adapter(const SimulationOptions& options) {
    const auto adapter = model::LoadPeft(options.out / "adapter",
                                         model::LoadHfConfig(kTinyBase / "config.json").value());
    EXPECT_TRUE(adapter.has_value());
    return {adapter->parameters().begin(), adapter->parameters().end()};
  }
  // The same simulation by ranks that are threads; what rank 0 returns.
  static SimulationResult RunOverRanks(const SimulationOptions& options, int ranks) {
    auto group = cluster::MakeThreadGroup(ranks, {.deadline = std::chrono::seconds(60)});
    EXPECT_TRUE(group.has_value());
    std::vector<SimulationResult> results(static_cast<size_t>(ranks));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        cluster::Collectives& mine = *(*group)[static_cast<size_t>(rank)];
        SimulationOptions of_rank = options;
        of_rank.rank = rank;
        of_rank.ranks = ranks;
        of_rank.add_over_ranks = [&mine](std::span<int64_t> values) {
          return mine.AllReduce("round", values.data(), values.size(), cluster::DType::kI64);
        };
        SimulationResult& result = results[static_cast<size_t>(rank)];
        result = Run(of_rank);
        if (!result.finished) mine.Abort("this rank failed");
      });
    }
    for (std::thread& thread : threads) thread.join();
    return results[0];
  }
  static std::string Rounds(const SimulationOptions& options) {
    return ReadTextFile(options.out / "rounds.jsonl", 1 << 20).value_or("");
  }
  // Forty records that differ.
  fs::path LightRecordsFile() {
    const fs::path path = samples_[0]->options().site / "light.jsonl";
    std::ofstream out(path);
    for (int i = 0; i < 40; ++i) out << LightRecord(i);
    return path;
  }
  static std::string LightRecord(int i) {
    return fmt::format("{{\"prompt\":\"what is {} \",\"completion\":\"it is {}\"}}\n", i, i * 7);
  }
  void IsByHand(const SimulationOptions& options, std::vector<float>* last);
  std::vector<std::unique_ptr<SampleSite>> samples_;
};

// The simulation's last version, which is the one by hand: each site's trainer, the sum of what it
// encodes, the server's step.
void SimulationTest::IsByHand(const SimulationOptions& options, std::vector<float>* last) {
  const SimulationResult result = Run(options);
  EXPECT_TRUE(result.finished);
  ASSERT_EQ(result.rounds.size(), 3u);

  federation::JobSource source;
  source.file = "job.toml";
  source.text = options.job_toml;
  source.model_config = *ReadTextFile(kTinyBase / "config.json", 1 << 20);
  source.base_hash = crypto::BaseHash(kTinyBase).value();
  source.names_base = false;
  auto made = federation::MakeJob(source, {}, {"site-0", "site-1"}, 0);
  ASSERT_TRUE(made.has_value()) << made.error().ToString();
  const protocols::JobManifest& job = made->manifest;
  std::vector<std::unique_ptr<FederatedJob>> sites;
  for (int i = 0; i < 2; ++i) {
    SiteOptions site = samples_[static_cast<size_t>(i)]->options();
    site.name = fmt::format("site-{}", i);
    sites.push_back(FederatedJob::Open(protocols::Encode(job), site, {}).value());
  }
  std::vector<float> parameters = made->parameters;
  federation::ServerMoments moments =
      federation::FirstMoments(federation::RuleOf(job), parameters.size());
  for (uint32_t round = 1; round <= 3; ++round) {
    const auto phase = static_cast<uint8_t>((round - 1) % job.phase_groups.size());
    federation::WeightedSum sum(parameters.size());
    for (const auto& site : sites) {
      ASSERT_TRUE(site->SetAdapter(round - 1, BytesOf(parameters)).ok());
      const auto update = site->RunRound(
          {.job = site->id(), .round = round, .phase = phase, .adapter_version = round - 1});
      ASSERT_TRUE(update.has_value()) << update.error().ToString();
      const auto view = protocols::UpdateView::Parse(*update, job.layout);
      ASSERT_TRUE(view.has_value());
      ASSERT_TRUE(sum.Add(*view, view->header().weight).ok());
    }
    parameters =
        federation::ServerStep(federation::RuleOf(job), parameters, sum.sum(), sum.total_weight(),
                               job.layout, job.phase_groups.items[phase], &moments)
            .value();
    size_t saturated = 0;
    ASSERT_TRUE(federation::SaturateAllToGrid(parameters, &saturated).ok());
    EXPECT_EQ(result.rounds[round - 1].version, round);
  }
  EXPECT_EQ(Adapter(options), parameters);
  *last = parameters;
}

TEST_F(SimulationTest, IsWhatTheSitesAndTheCoordinatorDo) {
  std::vector<float> last;
  IsByHand(Options("rounds = 3\nweighting = \"tokens\"\nserver_optimizer = \"fedavgm\"\n"
                   "strategy = \"rolora\"\n",
                   2, "twin"),
           &last);
}

// A rate of the server's that drives parameters past the grid's end.
TEST_F(SimulationTest, IsWhatTheyDoAlsoWhereParametersSaturate) {
  SimulationOptions options = Options("rounds = 3\nserver_learning_rate = 10\n", 2, "saturated");
  const std::string rate = "learning_rate = 5e-3";
  options.job_toml.replace(options.job_toml.rfind(rate), rate.size(), "learning_rate = 0.2");
  std::vector<float> last;
  IsByHand(options, &last);
  EXPECT_GT(std::ranges::count(last, federation::kLargestOnGrid), 0);
  EXPECT_GT(std::ranges::count(last, -federation::kLargestOnGrid), 0);
}

// Ten sites are more than stay in memory; the same job again gives the same bits.
TEST_F(SimulationTest, ManySitesAskedByTurnsGiveTheSameBitsAgain) {
  const std::string keys = "rounds = 3\nsites_per_round = 4\ntarget_updates = 3\n";
  SimulationOptions first = Options(keys, 10, "first"), second = Options(keys, 10, "second");
  first.availability = second.availability = 0.8;
  const SimulationResult result = Run(first);
  EXPECT_TRUE(Run(second).finished);
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(Adapter(first), Adapter(second));
  for (const SimulatedRound& round : result.rounds) {
    EXPECT_EQ(round.asked, 4u);
    EXPECT_TRUE(round.updates == 3 || round.version == 0) << round.updates;
  }
  std::ifstream lines(first.out / "rounds.jsonl");
  std::string line;
  size_t count = 0;
  while (std::getline(lines, line)) count += line.find("\"round\"") != std::string::npos;
  EXPECT_EQ(count, result.rounds.size());
  EXPECT_TRUE(fs::exists(first.out / "rounds.svg"));
}

// Sites that keep residuals and moments, of which some come late or not at all.
TEST_F(SimulationTest, OneTwoAndFourRanksGiveTheSameBits) {
  const std::string keys =
      "rounds = 3\nsites_per_round = 5\ntarget_updates = 3\nweighting = \"tokens\"\n"
      "codec = \"int4\"\nerror_feedback = true\nserver_optimizer = \"fedadam\"\n";
  SimulationOptions one = Options(keys, 10, "one");
  one.availability = 0.9;
  ASSERT_TRUE(Run(one).finished);
  for (const int ranks : {2, 4}) {
    SimulationOptions more = Options(keys, 10, fmt::format("ranks-{}", ranks));
    more.availability = 0.9;
    const SimulationResult result = RunOverRanks(more, ranks);
    EXPECT_TRUE(result.finished);
    EXPECT_EQ(result.ranks, ranks);
    EXPECT_EQ(Adapter(more), Adapter(one));
    EXPECT_EQ(Rounds(more), Rounds(one));
  }
}

// In its first round a light site is a site with its records and no past.
TEST_F(SimulationTest, LightSitesDoWhatSitesWithTheirRecordsDo) {
  const std::string keys = "rounds = 1\nweighting = \"tokens\"\n";
  constexpr size_t kSites = 3, kRecords = 6;
  SimulationOptions light = Options(keys, 0, "light");
  light.light = {kSites, LightRecordsFile(), kRecords};
  const SimulationResult result = Run(light);
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(result.sites, kSites);

  SimulationOptions folders = Options(keys, 0, "folders");
  std::set<size_t> used;
  for (size_t site = 0; site < kSites; ++site) {
    const fs::path path = samples_[site]->options().site / "slice.jsonl";
    std::ofstream out(path);
    for (const size_t record : LightRecords(42, site, 40, kRecords)) {
      out << LightRecord(static_cast<int>(record));
      used.insert(record);
    }
    folders.sites.push_back({LightSiteName(site), path, {}});
  }
  EXPECT_GT(used.size(), kRecords);  // they do not all have the same ones
  EXPECT_TRUE(Run(folders).finished);
  EXPECT_EQ(Adapter(light), Adapter(folders));
  EXPECT_FALSE(fs::exists(light.out / "sites"));
}

// More than a job can name, more than a round of real sites takes.
TEST_F(SimulationTest, LightSitesByTheThousandsGiveTheSameBitsOverRanks) {
  const std::string keys = "rounds = 2\nsites_per_round = 60\n";
  SimulationOptions one = Options(keys, 0, "light-one"), two = Options(keys, 0, "light-two");
  one.light = two.light = {5000, LightRecordsFile(), 4};
  const SimulationResult result = Run(one);
  ASSERT_TRUE(result.finished);
  EXPECT_EQ(result.rounds[0].updates, 60u);
  EXPECT_TRUE(RunOverRanks(two, 2).finished);
  EXPECT_EQ(Adapter(one), Adapter(two));
  EXPECT_EQ(Rounds(one), Rounds(two));
  EXPECT_TRUE(fs::exists(one.out / "rounds.html"));
}

TEST_F(SimulationTest, LightSitesRefuseJobsWhoseSitesRemember) {
  SimulationOptions options = Options("rounds = 2\nstrategy = \"fedsa-lora\"\n", 0, "remember");
  options.light = {4, LightRecordsFile(), 4};
  const auto result = Simulate(options);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), Code::kUnsupported);
}

TEST_F(SimulationTest, SitesThatAreNeverThereEndTheJob) {
  SimulationOptions options = Options("rounds = 3\n", 2, "away");
  options.availability = 1e-9;
  const SimulationResult result = Run(options);
  EXPECT_FALSE(result.finished);
  EXPECT_EQ(result.rounds.size(), 3u);
  EXPECT_EQ(result.version, 0u);
}

TEST_F(SimulationTest, AMistakeInTheJobFileIsNamedWithItsLine) {
  const auto result = Simulate(Options("rounds = 0\n", 2, "bad"));
  ASSERT_FALSE(result.has_value());
  EXPECT_NE(result.error().message().find("job.toml line 1: rounds"), std::string::npos)
      << result.error().message();
}

TEST_F(SimulationTest, StopsWhenItIsAskedTo) {
  SimulationOptions options = Options("rounds = 3\n", 2, "stopped");
  options.should_stop = [] { return true; };
  const auto result = Simulate(options);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), Code::kCancelled);
}

}  // namespace
}  // namespace tidegate::trainer
