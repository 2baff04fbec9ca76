// More than one job at a time, and what of a job is known after a restart of the coordinator.
#include <gtest/gtest.h>

#include <filesystem>

#include "federation_fixture.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;

class JobsTest : public ::testing::Test {
 protected:
  JobsTest() : federation(Dir()) { federation.Enrol("north"); }
  ~JobsTest() override { fs::remove_all(Dir()); }
  static fs::path Dir() {
    return fs::path(::testing::TempDir()) /
           ("offshore_jobs_" +
            std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
  }
  FakeSite& north() { return federation.site("north"); }
  std::string WorksFor() { return ToHex(north().job_id); }
  // Its link says LEASE: now and then, and whenever it has a new adapter.
  void Lease() {
    federation.Say("north", north().Lease());
    federation.Settle();
  }
  nlohmann::ordered_json Job(const std::string& id) {
    return federation.Request({{"verb", "job_show"}, {"job", id}})
        .value_or(nlohmann::ordered_json());
  }

  TestFederation federation;
  const std::string kOneRound = "rounds = 1\n[train]\nlocal_steps = 1\n";
};

TEST_F(JobsTest, ASiteIsToldOfOneJobAfterTheOtherInTheOrderOfTheirSubmission) {
  north().silent = true;
  const std::string first = federation.Submit("name = \"first\"\n" + kOneRound);
  const std::string second = federation.Submit("name = \"second\"\n" + kOneRound);
  const std::string third = federation.Submit("name = \"third\"\n" + kOneRound);
  federation.Connect("north");
  federation.Settle();
  EXPECT_EQ(WorksFor(), first);
  Lease();
  EXPECT_EQ(WorksFor(), first) << "while it works for one, it hears of no other";
  // Nor when that one opens its round.
  federation.Submit("name = \"fourth\"\n" + kOneRound);
  federation.Settle();
  EXPECT_EQ(WorksFor(), first);
  // Nor after a restart of the coordinator, which asks the site what it works for.
  federation.Crash();
  federation.Open();
  federation.Connect("north");
  Lease();
  EXPECT_EQ(WorksFor(), first);
  for (const auto& [job, next] : {std::pair(first, second), std::pair(second, third)}) {
    ASSERT_TRUE(federation.Request({{"verb", "job_stop"}, {"job", job}}).has_value());
    EXPECT_EQ(WorksFor(), job) << "until it says that it has none";
    Lease();
    EXPECT_EQ(WorksFor(), next);
    Lease();
    EXPECT_EQ(WorksFor(), next);
  }
  EXPECT_EQ(north().bad, 0);
}

// Its policy refuses the first one: it says LEASE without a job, and hears of the next.
TEST_F(JobsTest, ASiteThatDoesNotTakeAJobIsToldOfTheNextAndThenOfTheFirstAgain) {
  north().silent = true;
  const std::string first = federation.Submit("name = \"first\"\n" + kOneRound);
  const std::string second = federation.Submit("name = \"second\"\n" + kOneRound);
  const SiteMessage no_job = north().Lease();
  federation.Connect("north");
  EXPECT_EQ(WorksFor(), first);
  const auto say_none = [&](int times) {
    for (int i = 0; i < times; ++i) federation.Say("north", no_job);
  };
  say_none(2);
  EXPECT_EQ(WorksFor(), first) << "told again, for it may not have heard";
  say_none(1);
  EXPECT_EQ(WorksFor(), second);
  say_none(2);
  EXPECT_EQ(WorksFor(), second);
  say_none(1);
  EXPECT_EQ(WorksFor(), first);
}

TEST_F(JobsTest, TheLossesOfTheSitesAreKnownAfterARestart) {
  federation.Connect("north");
  const std::string id = federation.Submit("rounds = 2\n[train]\nlocal_steps = 1\n");
  federation.Settle();
  const auto before = Job(id);
  ASSERT_EQ(before["state"], "finished");
  EXPECT_EQ(before["losses"]["north"]["round"], 2);
  EXPECT_EQ(before["losses"]["north"]["train"], 1.002);
  federation.Crash();
  federation.Open();
  EXPECT_EQ(Job(id)["losses"], before["losses"]);
}

}  // namespace
}  // namespace tidegate::offshore
