// A site of real processes whose coordinator is lost, that sleeps, and that its people steer over
// the local API.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <csignal>

#include "base/clock.h"
#include "base/file.h"
#include "books.h"
#include "crypto/hash.h"
#include "federation.h"
#include "onshore/api/client.h"

namespace tidegate::federation_processes {
namespace {

namespace fs = std::filesystem;
using onshore::api::ApiClient;

constexpr int64_t kLookMillis = 20;
constexpr int64_t kMostMillis = 60'000 * kSlow;
// So many that a trainer can be stopped in the middle of a round.
constexpr int kManySteps = 300;

// Without starting again what has died.
bool Eventually(const std::function<bool()>& done) {
  const int64_t deadline = SystemClock().MonotonicMillis() + kMostMillis;
  while (!done()) {
    if (SystemClock().MonotonicMillis() > deadline) return false;
    ::poll(nullptr, 0, kLookMillis);
  }
  return true;
}

bool LogHas(const fs::path& log, const std::string& text) {
  return ReadTextFile(log, 64u << 20).value_or("").find(text) != std::string::npos;
}

void Append(const fs::path& file, const std::string& line) {
  const auto text = ReadTextFile(file, 1 << 20);
  ASSERT_TRUE(text) << text.error().ToString();
  ASSERT_TRUE(WriteFileDurably(file, AsBytes(*text + line), 0600).ok());
}

std::vector<float> FinalOf(Federation& federation) {
  EXPECT_TRUE(federation.Stop().ok());
  const auto books = ReadCoordinator(federation.poc().coordinator_dir());
  EXPECT_TRUE(books) << books.error().ToString();
  return books ? books->Final() : std::vector<float>();
}

JobSetup LongRounds(int rounds) {
  return {fmt::format("rounds = {}\ndeadline_seconds = 600\n", rounds), kManySteps};
}

// Its memory is free until the coordinator is back; then, and after a person's pause, the round
// goes on from the optimizer step where it was, with the bits of a job that nobody disturbed.
TEST(SiteApi, ALostCoordinatorAndAPauseFreeTheTrainerAndChangeNoBit) {
  Federation undisturbed({{.name = "north"}}, LongRounds(1));
  TIDEGATE_RUNS(undisturbed, undisturbed.Provision());
  TIDEGATE_RUNS(undisturbed, undisturbed.Begin());
  TIDEGATE_RUNS(undisturbed, undisturbed.RunToTheEnd(kMostMillis));

  Federation federation({{.name = "north"}}, LongRounds(1));
  TIDEGATE_RUNS(federation, federation.Provision());
  cli::Poc& poc = federation.poc();
  ASSERT_NO_FATAL_FAILURE(Append(poc.site_dir(0) / "site.toml", "free_trainer_seconds = 1\n"));
  TIDEGATE_RUNS(federation, federation.Begin());
  TIDEGATE_RUNS(federation,
                federation.WaitForLine(poc.site_log(0), "round_started round=1", kMostMillis));
  // It stands still until it is told, so that it is in the middle of the round.
  const pid_t trainer = poc.child_pid(0, "trainer");
  ASSERT_GT(trainer, 0);
  ASSERT_EQ(::kill(trainer, SIGSTOP), 0);
  ASSERT_EQ(::kill(poc.coordinator_pid(), SIGKILL), 0);
  const bool held = Eventually([&] { return LogHas(poc.site_log(0), "training_held"); });
  ASSERT_EQ(::kill(trainer, SIGCONT), 0);
  ASSERT_TRUE(held) << federation.Logs();
  ASSERT_TRUE(Eventually([&] {
    return LogHas(poc.site_log(0), "process_ended name=trainer how=clean");
  })) << federation.Logs();
  EXPECT_TRUE(LogHas(poc.site_log(0), "training_held why=coordinator_lost")) << federation.Logs();
  EXPECT_EQ(poc.child_pid(0, "trainer"), -1);
  EXPECT_FALSE(LogHas(poc.site_log(0), "round_trained")) << "it was to be in the middle";
  auto client = ApiClient::Connect(poc.site_dir(0) / "api.sock");
  ASSERT_TRUE(client) << client.error().ToString();
  ASSERT_TRUE(client->Pause().ok());
  TIDEGATE_RUNS(federation,
                federation.WaitForLine(poc.site_log(0), "training_released why=coordinator_lost",
                                       kMostMillis));
  const auto status = client->Status();
  ASSERT_TRUE(status) << status.error().ToString();
  EXPECT_EQ(status->connected, 1u);
  EXPECT_EQ(onshore::api::TextOf(status->job_name), "poc");
  EXPECT_EQ(status->round, 1u);
  EXPECT_EQ(status->adapter_version, 0u);
  EXPECT_EQ(poc.child_pid(0, "trainer"), -1) << "still paused";
  ASSERT_TRUE(client->Resume().ok());
  TIDEGATE_RUNS(federation, federation.RunToTheEnd(kMostMillis));
  EXPECT_EQ(FinalOf(federation), FinalOf(undisturbed));
}

// South is stopped as a whole, as a machine that sleeps, until a round has ended without it.
TEST(SiteApi, ASiteThatSleptOverADeadlineComesBackByItself) {
  constexpr int kDeadlineSeconds = 3 * kSlow;
  Federation federation(
      {{.name = "north"}, {.name = "south"}},
      {fmt::format("rounds = 4\nquorum = 1\ndeadline_seconds = {}\n", kDeadlineSeconds), 40});
  TIDEGATE_RUNS(federation, federation.Provision());
  TIDEGATE_RUNS(federation, federation.Begin());
  cli::Poc& poc = federation.poc();
  TIDEGATE_RUNS(federation,
                federation.WaitForLine(poc.site_log(1), "round_started round=1", kMostMillis));
  std::vector<pid_t> asleep = {poc.onshore_pid(1)};
  for (const char* name : {"gate", "link", "trainer"}) asleep.push_back(poc.child_pid(1, name));
  for (const pid_t pid : asleep) {
    if (pid > 0) {
      ASSERT_EQ(::kill(pid, SIGSTOP), 0);
    }
  }
  const Status slept =
      federation.WaitForLine(poc.coordinator_log(), "version_published", kMostMillis);
  for (const pid_t pid : asleep) {
    if (pid > 0) {
      ASSERT_EQ(::kill(pid, SIGCONT), 0);
    }
  }
  TIDEGATE_RUNS(federation, slept);
  TIDEGATE_RUNS(federation, federation.RunToTheEnd(2 * kMostMillis));
  ASSERT_TRUE(federation.Stop().ok());
  const auto coordinator = ReadCoordinator(poc.coordinator_dir());
  ASSERT_TRUE(coordinator) << coordinator.error().ToString();
  const std::vector<uint32_t> counted = coordinator->Counted("south");
  ASSERT_FALSE(counted.empty()) << federation.Logs();
  EXPECT_GT(counted.front(), 1u) << "it slept through the first";
}

// Other records from the second round on, by an open file without a name at the site.
TEST(SiteApi, OtherRecordsAreTrainedOnFromTheNextStartAndAreInTheLedger) {
  Federation federation({{.name = "north"}}, LongRounds(2));
  TIDEGATE_RUNS(federation, federation.Provision());
  TIDEGATE_RUNS(federation, federation.Begin());
  cli::Poc& poc = federation.poc();
  TIDEGATE_RUNS(federation,
                federation.WaitForLine(poc.site_log(0), "round_started round=2", kMostMillis));
  std::string other;
  for (int i = 0; i < 40; ++i) {
    other += fmt::format("{{\"text\": \"Other words, number {}, of the same site.\"}}\n", i);
  }
  const fs::path file = federation.dir() / "other.jsonl";
  ASSERT_TRUE(WriteFileDurably(file, AsBytes(other)).ok());
  const Fd given(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  fs::remove(file);
  auto client = ApiClient::Connect(poc.site_dir(0) / "api.sock");
  ASSERT_TRUE(client) << client.error().ToString();
  const Status set = client->SetDataset(onshore::DatasetKind::kRecords, given.get());
  ASSERT_TRUE(set.ok()) << set.ToString();
  TIDEGATE_RUNS(federation, federation.RunToTheEnd(kMostMillis));
  ASSERT_TRUE(federation.Stop().ok());
  const auto books = ReadSite(poc.site_dir(0));
  ASSERT_TRUE(books) << books.error().ToString();
  const auto& leaves = books->datasets;
  ASSERT_EQ(leaves.size(), 2u) << federation.Logs();
  EXPECT_EQ(leaves[1].records, crypto::Sha256::Of(AsBytes(other)));
  EXPECT_NE(leaves[0].records, leaves[1].records);
  EXPECT_EQ(leaves[1].records_bytes, other.size());
}

}  // namespace
}  // namespace tidegate::federation_processes
