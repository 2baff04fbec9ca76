// kill -9 in every log step of either shore, and nothing is lost or counted twice.
//
// TIDEGATE_KILL_SEEDS=FIRST-LAST chooses the seeds; one that fails is repeated with N-N. Some of
// what a kill meets is a matter of microseconds, so a repetition may need several tries.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/clock.h"
#include "books.h"
#include "kill_run.h"

namespace tidegate::federation_processes {
namespace {

// Restarts wait for each other more than they compute.
constexpr int kAtOnce = 3;
// So many that none of the steps which a kill may be missed at is missed in all of them.
constexpr uint64_t kEnoughSeeds = 10;

std::pair<uint64_t, uint64_t> Seeds() {
  const char* text = std::getenv("TIDEGATE_KILL_SEEDS");
  unsigned long first = 1, last = 10;
  if (text != nullptr && std::sscanf(text, "%lu-%lu", &first, &last) != 2) {
    ADD_FAILURE() << "TIDEGATE_KILL_SEEDS=" << text << " is not FIRST-LAST";
  }
  return {first, last};
}

struct Books {
  CoordinatorBooks coordinator;
  SiteBooks sites[KillRun::kSites];
  std::string best;  // the adapter that the site with held-out records keeps
};

Result<Books> ReadBooks(Federation& federation) {
  Books books;
  cli::Poc& poc = federation.poc();
  TG_ASSIGN_OR_RETURN(books.coordinator, ReadCoordinator(poc.coordinator_dir()));
  for (size_t i = 0; i < KillRun::kSites; ++i) {
    TG_ASSIGN_OR_RETURN(books.sites[i], ReadSite(poc.site_dir(i)));
  }
  TG_ASSIGN_OR_RETURN(
      books.best,
      ReadTextFile(poc.site_dir(0) / "trainer/adapter/adapter_model.safetensors", 64u << 20));
  return books;
}

void ExpectAllRight(const Books& books, const Books& undisturbed) {
  EXPECT_TRUE(books.coordinator.parameters == undisturbed.coordinator.parameters)
      << "each version is that of the undisturbed job";
  EXPECT_EQ(books.coordinator.equivocations, 0u);
  for (size_t i = 0; i < KillRun::kSites; ++i) {
    const std::string name = KillRun::Sites()[i].name;
    EXPECT_EQ(books.coordinator.Counted(name), (std::vector<uint32_t>{1, 2, 3}));
    ExpectExactlyOnce(books.coordinator, books.sites[i], name, {1, 2, 3});
    ExpectFinalAdapter(books.coordinator, books.sites[i], name);
  }
  EXPECT_TRUE(books.best == undisturbed.best) << "the adapter that the site keeps for itself";
}

struct Tally {
  std::atomic<int> killed[kStepCount] = {};
  std::atomic<bool> told = false;  // the logs of a seed that failed
};

void RunSeed(uint64_t seed, const Books& undisturbed, Tally& tally) {
  const int64_t start = SystemClock().MonotonicMillis();
  KillRun run(PlanOf(seed, KillRun::kSites));
  const Status status = run.Run();
  std::string story = fmt::format("seed {}\n", seed);
  for (const std::string& kill : run.killed()) story += kill + "\n";
  SCOPED_TRACE(story);
  EXPECT_TRUE(status.ok()) << status.ToString();
  if (status.ok()) {
    const auto books = ReadBooks(run.federation());
    EXPECT_TRUE(books.has_value()) << books.error().ToString();
    if (books) ExpectAllRight(*books, undisturbed);
  }
  for (size_t i = 0; i < kStepCount; ++i) {
    const bool killed = run.steps().contains(i);
    tally.killed[i] += killed ? 1 : 0;
    EXPECT_TRUE(killed || kLogSteps[i].may_miss) << kLogSteps[i].where << kLogSteps[i].text;
  }
  std::printf("seed %llu: %zu kills, %.1f s\n", static_cast<unsigned long long>(seed),
              run.killed().size(),
              static_cast<double>(SystemClock().MonotonicMillis() - start) / 1000);
  if (testing::Test::HasFailure() && !tally.told.exchange(true)) {
    std::printf("%s", run.federation().Logs().c_str());
  }
  std::fflush(stdout);
}

TEST(Kills, AtEveryLogStepOfEitherShoreChangeNoBitAndCountNothingTwice) {
  KillRun whole({});
  TIDEGATE_RUNS(whole.federation(), whole.Run());
  const auto undisturbed = ReadBooks(whole.federation());
  ASSERT_TRUE(undisturbed.has_value()) << undisturbed.error().ToString();
  ExpectAllRight(*undisturbed, *undisturbed);
  EXPECT_GT(undisturbed->coordinator.versions[0].blocks.size(), 1u) << "a kill may come in between";

  const auto [first, last] = Seeds();
  Tally tally;
  std::atomic<uint64_t> next = first;
  std::vector<std::thread> workers;
  for (int i = 0; i < kAtOnce; ++i) {
    workers.emplace_back([&, last = last] {
      for (uint64_t seed; (seed = next++) <= last;) RunSeed(seed, *undisturbed, tally);
    });
  }
  for (std::thread& worker : workers) worker.join();
  if (last - first + 1 < kEnoughSeeds) return;
  for (size_t i = 0; i < kStepCount; ++i) {
    EXPECT_GT(tally.killed[i].load(), 0) << kLogSteps[i].where << kLogSteps[i].text;
  }
}

}  // namespace
}  // namespace tidegate::federation_processes
