// Sites that are late, away for a while or away until the end.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>

#include "books.h"
#include "federation.h"

namespace tidegate::federation_processes {
namespace {

// A site that starts now trains its round well within it.
constexpr int kDeadlineSeconds = 3 * kSlow;
constexpr int64_t kRoundMillis = 1000 * (kDeadlineSeconds + 20 * kSlow);

std::vector<uint32_t> Rounds(const std::vector<protocols::Signed>& receipts,
                             protocols::ReceiptOutcome outcome) {
  std::vector<uint32_t> rounds;
  for (const protocols::Signed& document : receipts) {
    const auto receipt = protocols::Decode<protocols::Receipt>(document.body.items);
    if (receipt && receipt->outcome == outcome) rounds.push_back(receipt->key.round);
  }
  return rounds;
}

int Deadlines(const CoordinatorBooks& coordinator) {
  return static_cast<int>(std::count_if(
      coordinator.events.begin(), coordinator.events.end(),
      [](const auto& event) { return std::holds_alternative<federation::TimePassed>(event); }));
}

JobSetup Job(int rounds, int quorum, int local_steps = kLocalSteps) {
  return {fmt::format("rounds = {}\nquorum = {}\ndeadline_seconds = {}\n", rounds, quorum,
                      kDeadlineSeconds),
          local_steps};
}

// North is always there, south's update of round 1 comes too late, west is away in round 1, east
// until the job has ended.
TEST(Quorum, RoundsEndAtTheirDeadlineAndSitesThatWereLateOrAwayCatchUp) {
  const std::string names[] = {"north", "south", "west", "east"};
  // Training takes long enough for south's link to be stopped before there is an update.
  Federation federation({{.name = names[0]},
                         {.name = names[1]},
                         {.name = names[2], .away = true},
                         {.name = names[3], .away = true}},
                        Job(2, 1, 40));
  TIDEGATE_RUNS(federation, federation.Provision());
  TIDEGATE_RUNS(federation, federation.Begin());
  cli::Poc& poc = federation.poc();
  TIDEGATE_RUNS(federation,
                federation.WaitForLine(poc.site_log(1), "round_started round=1", kRoundMillis));
  const pid_t link = poc.child_pid(1, "link");
  ASSERT_GT(link, 0);
  ASSERT_EQ(::kill(link, SIGSTOP), 0);
  const Status published =
      federation.WaitForLine(poc.coordinator_log(), "version_published", kRoundMillis);
  const Status released =
      federation.WaitForLine(poc.site_log(1), "update_released round=1", kRoundMillis);
  ASSERT_EQ(::kill(link, SIGCONT), 0);
  TIDEGATE_RUNS(federation, published);
  TIDEGATE_RUNS(federation, released);
  TIDEGATE_RUNS(federation, poc.StartSite(2));
  TIDEGATE_RUNS(federation, federation.RunToTheEnd(2 * kRoundMillis));
  TIDEGATE_RUNS(federation, poc.StartSite(3));
  TIDEGATE_RUNS(federation, federation.RunToTheEnd(kRoundMillis));
  ASSERT_TRUE(federation.Stop().ok());

  const auto coordinator = ReadCoordinator(poc.coordinator_dir());
  ASSERT_TRUE(coordinator.has_value()) << coordinator.error().ToString();
  EXPECT_GE(Deadlines(*coordinator), 2);
  for (size_t i = 0; i < 4; ++i) {
    const auto books = ReadSite(poc.site_dir(i));
    ASSERT_TRUE(books.has_value()) << books.error().ToString();
    const std::vector<uint32_t> counted = coordinator->Counted(names[i]);
    const std::vector<uint32_t> late = Rounds(books->receipts, protocols::ReceiptOutcome::kLate);
    std::vector<uint32_t> all = counted;
    all.insert(all.end(), late.begin(), late.end());
    std::sort(all.begin(), all.end());
    ExpectExactlyOnce(*coordinator, *books, names[i], all);
    ExpectFinalAdapter(*coordinator, *books, names[i]);
    EXPECT_EQ(Rounds(books->receipts, protocols::ReceiptOutcome::kCounted), counted) << names[i];
    EXPECT_EQ(std::count(counted.begin(), counted.end(), 1u), i == 0 ? 1 : 0) << names[i];
    EXPECT_EQ(std::count(late.begin(), late.end(), 1u), i == 1 ? 1 : 0) << names[i];
    EXPECT_EQ(counted.empty(), i == 3) << names[i] << ": caught up with the job that ran";
  }
}

TEST(Quorum, ARoundBelowQuorumIsAbandonedAndTheNextOneGoesOnFromTheSameVersion) {
  const std::string names[] = {"north", "east"};
  Federation federation({{.name = names[0]}, {.name = names[1], .away = true}}, Job(1, 2));
  TIDEGATE_RUNS(federation, federation.Provision());
  TIDEGATE_RUNS(federation, federation.Begin());
  cli::Poc& poc = federation.poc();
  TIDEGATE_RUNS(federation,
                federation.WaitForLine(poc.coordinator_log(), "round_abandoned job=poc round=1",
                                       kRoundMillis));
  TIDEGATE_RUNS(federation, poc.StartSite(1));
  TIDEGATE_RUNS(federation, federation.RunToTheEnd(3 * kRoundMillis));
  ASSERT_TRUE(federation.Stop().ok());

  const auto coordinator = ReadCoordinator(poc.coordinator_dir());
  ASSERT_TRUE(coordinator.has_value()) << coordinator.error().ToString();
  const uint32_t last = coordinator->Counted("east").back();
  EXPECT_GE(last, 2u);
  EXPECT_EQ(coordinator->versions.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const auto books = ReadSite(poc.site_dir(i));
    ASSERT_TRUE(books.has_value()) << books.error().ToString();
    ExpectExactlyOnce(*coordinator, *books, names[i], coordinator->Counted(names[i]));
    ExpectFinalAdapter(*coordinator, *books, names[i]);
    EXPECT_EQ(coordinator->Counted(names[i]).back(), last) << names[i];
  }
}

}  // namespace
}  // namespace tidegate::federation_processes
