// Strategies and server optimizers through the whole coordinator: sealed updates in, versions out,
// with restarts between rounds, against the equations in double; and rounds that ask some of the
// job's sites.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "federation/shared/grid.h"
#include "federation_fixture.h"
#include "protocols/strategy.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kRounds = 4;

fs::path TestDir() {
  std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
  std::replace(name.begin(), name.end(), '/', '_');
  return fs::path(::testing::TempDir()) / ("strategies_" + name);
}

std::string JobText(const std::string& keys) {
  return fmt::format(
      "rounds = {}\ncodec = \"fixed32\"\ndeadline_seconds = 60\n{}[lora]\nr = 4\nalpha = 8\n"
      "[train]\nlocal_steps = 1\n",
      kRounds, keys);
}

class Strategies : public ::testing::Test {
 protected:
  Strategies() : federation(TestDir()) {
    fs::remove_all(TestDir() / "again");
    for (const char* name : {"east", "north", "south", "west"}) federation.Enrol(name);
  }
  ~Strategies() override { fs::remove_all(TestDir()); }
  void ConnectAll() {
    for (const char* name : {"east", "north", "south", "west"}) federation.Connect(name);
    federation.Settle();
  }
  // The job's adapter, as its coordinator has it.
  TestFederation federation;
};

// What a version should be: the update of a site is a function of site, round and place.
class InDouble {
 public:
  InDouble(const protocols::JobManifest& job, const std::vector<float>& start)
      : job_(job), theta_(start.begin(), start.end()), m_(start.size()), v_(start.size()) {
    for (double& v : v_) v = job.server_tau * job.server_tau;
    for (const protocols::LayoutTensor& t : job.layout.tensors.items) {
      groups_.insert(groups_.end(), static_cast<size_t>(t.rows) * t.cols, t.group);
    }
  }
  void Round(uint32_t round, const std::vector<std::string>& sites,
             const std::vector<float>& start) {
    const uint8_t shared = job_.phase_groups.items.at((round - 1) % job_.phase_groups.size());
    for (size_t i = 0; i < theta_.size(); ++i) {
      if ((shared >> groups_[i] & 1) == 0) continue;
      double d = 0;
      for (const std::string& site : sites) {
        const double at = double{start[i]} + double{FakeSite::Delta(site, round, i)};
        d += (double{federation::SnapToGrid(at)} - double{start[i]}) /
             static_cast<double>(sites.size());
      }
      Step(i, d);
    }
  }
  const std::vector<double>& theta() const { return theta_; }

 private:
  void Step(size_t i, double d) {
    const double eta = job_.server_learning_rate, b1 = job_.server_beta1, b2 = job_.server_beta2;
    switch (job_.server_optimizer) {
      case protocols::ServerOptimizer::kFedAvg:
        theta_[i] += eta * d;
        return;
      case protocols::ServerOptimizer::kFedAvgM:
        m_[i] = b1 * m_[i] + d;
        theta_[i] += eta * m_[i];
        return;
      case protocols::ServerOptimizer::kFedAdam:
        v_[i] = b2 * v_[i] + (1 - b2) * d * d;
        break;
      case protocols::ServerOptimizer::kFedYogi:
        v_[i] -= (1 - b2) * d * d * (v_[i] > d * d ? 1 : v_[i] < d * d ? -1 : 0);
        break;
    }
    m_[i] = b1 * m_[i] + (1 - b1) * d;
    theta_[i] += eta * m_[i] / (std::sqrt(v_[i]) + job_.server_tau);
  }
  const protocols::JobManifest job_;
  std::vector<double> theta_, m_, v_;
  std::vector<uint8_t> groups_;
};

class EachOptimizer : public Strategies, public ::testing::WithParamInterface<const char*> {};

TEST_P(EachOptimizer, IsItsEquationWithARestartAfterEachRound) {
  const std::vector<std::string> names = {"east", "north", "south", "west"};
  for (const std::string& name : names) federation.site(name).silent = true;
  ConnectAll();
  federation.Submit(JobText(GetParam()));
  federation.Settle();
  const FakeSite& north = federation.site("north");
  ASSERT_TRUE(north.adapter.has_value());
  InDouble twin(*north.job, north.parameters);
  std::vector<float> start = north.parameters;
  const std::vector<float> first = start;
  for (uint32_t round = 1; round <= kRounds; ++round) {
    for (const std::string& name : names) {
      federation.Say(name, FakeSite::OfferOf(federation.site(name).Make(round)));
    }
    federation.Settle();
    twin.Round(round, names, start);
    ASSERT_EQ(north.adapter->version, round);
    for (size_t i = 0; i < start.size(); ++i) {
      ASSERT_NEAR(north.parameters[i], twin.theta()[i], round * 0x1p-28 + 1e-8)
          << "version " << round << ", value " << i;
    }
    start = north.parameters;
    federation.Crash();
    federation.Open();
    ConnectAll();
  }
  EXPECT_NE(start, first);
  EXPECT_TRUE(north.adapter->final);
}

INSTANTIATE_TEST_SUITE_P(
    Jobs, EachOptimizer,
    ::testing::Values("strategy = \"ffa-lora\"\n", "strategy = \"rolora\"\n",
                      "strategy = \"fedsa-lora\"\n", "server_optimizer = \"fedavgm\"\n",
                      "server_optimizer = \"fedavgm\"\nstrategy = \"rolora\"\n",
                      "server_optimizer = \"fedadam\"\n",
                      "server_optimizer = \"fedyogi\"\nstrategy = \"rolora\"\n"));

// Three of four are asked, two updates are enough: the slow one's comes too late, and its receipt
// says so.
TEST_F(Strategies, MoreAreAskedThanAreWaitedFor) {
  const std::vector<std::string> names = {"east", "north", "south", "west"};
  for (const std::string& name : names) federation.site(name).silent = true;
  ConnectAll();
  const std::string id = federation.Submit(JobText("sites_per_round = 3\ntarget_updates = 2\n"));
  federation.Settle();
  std::set<std::string> ever;
  for (uint32_t round = 1; round <= kRounds; ++round) {
    std::vector<std::string> asked;
    for (const std::string& name : names) {
      FakeSite& site = federation.site(name);
      if (site.rounds.contains(round)) asked.push_back(name);
      federation.Say(name, site.Lease());
      EXPECT_EQ(site.rounds.contains(round), asked.size() > 0 && asked.back() == name)
          << "a lease does not ask a site that was not";
    }
    ASSERT_EQ(asked.size(), 3u) << "round " << round;
    ever.insert(asked.begin(), asked.end());
    for (const std::string& name : asked) {
      federation.Say(name, FakeSite::OfferOf(federation.site(name).Make(round)));
      federation.Settle();
    }
    using protocols::ReceiptOutcome;
    EXPECT_EQ(federation.site(asked[0]).receipts.at(round).outcome, ReceiptOutcome::kCounted);
    EXPECT_EQ(federation.site(asked[1]).receipts.at(round).outcome, ReceiptOutcome::kCounted);
    EXPECT_EQ(federation.site(asked[2]).receipts.at(round).outcome, ReceiptOutcome::kLate);
  }
  EXPECT_EQ(ever.size(), 4u) << "each is asked at some time";
  for (const std::string& name : names) {
    EXPECT_EQ(federation.site(name).adapter->version, kRounds) << "all have the end of it";
  }
  const auto job = federation.Request({{"verb", "job_show"}, {"job", id}});
  EXPECT_EQ((*job)["state"], "finished");
  // The log of it: four rounds of who was asked, two updates and a version each.
  const auto log = federation.Request({{"verb", "job_log"}, {"job", id}});
  ASSERT_TRUE(log.has_value()) << log.error().ToString();
  std::map<std::string, int> kinds;
  for (const auto& event : (*log)["events"]) ++kinds[event["event"].get<std::string>()];
  EXPECT_EQ(kinds, (std::map<std::string, int>{{"opened", 4}, {"accepted", 8}, {"published", 4}}));
  const std::string asked = (*log)["events"][0]["asked"];
  EXPECT_EQ(std::count(asked.begin(), asked.end(), ','), 2) << asked;
  const int64_t fifth = (*log)["events"][4]["number"];
  const auto rest = federation.Request({{"verb", "job_log"}, {"job", id}, {"after", fifth}});
  EXPECT_EQ((*rest)["events"].size(), 11u);
}

// One that is not connected is not asked while there are others.
TEST_F(Strategies, ASiteThatIsAwayIsNotWaitedFor) {
  for (const char* name : {"east", "north", "south"}) federation.Connect(name);
  federation.Settle();
  const std::string id = federation.Submit(JobText("sites_per_round = 3\n"));
  federation.Settle();
  const auto job = federation.Request({{"verb", "job_show"}, {"job", id}});
  EXPECT_EQ((*job)["state"], "finished");
  EXPECT_TRUE(federation.site("west").rounds.empty());
  federation.Connect("west");
  federation.Settle();
  federation.Say("west", federation.site("west").Lease());
  federation.Settle();
  ASSERT_TRUE(federation.site("west").adapter.has_value());
  EXPECT_TRUE(federation.site("west").adapter->final);
}

}  // namespace
}  // namespace tidegate::offshore
