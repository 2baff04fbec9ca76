// kill -9 of either side while updates and adapters of many blocks cross a slow line: no wrong
// byte, nothing counted twice, nothing stuck.
//
// TIDEGATE_TRANSFER_SEEDS=FIRST-LAST chooses the seeds.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "base/clock.h"
#include "base/file.h"
#include "books.h"
#include "federation.h"
#include "tests/transport/link_emulator.h"

namespace tidegate::federation_processes {
namespace {

constexpr int kAtOnce = 3, kKills = 5;
constexpr int64_t kMillis = 90'000 * kSlow;
// Of many blocks each way a round.
const JobSetup kJob = {.keys = "rounds = 2\ncodec = \"fixed32\"\ndeadline_seconds = 600\n",
                       .rank = 192};
const std::vector<SiteSetup> kSites = {{.name = "north"}, {.name = "south"}};

std::pair<uint64_t, uint64_t> Seeds() {
  const char* text = std::getenv("TIDEGATE_TRANSFER_SEEDS");
  unsigned long first = 1, last = 10;
  if (text != nullptr && std::sscanf(text, "%lu-%lu", &first, &last) != 2) {
    ADD_FAILURE() << "TIDEGATE_TRANSFER_SEEDS=" << text << " is not FIRST-LAST";
  }
  return {first, last};
}

// A federation whose first site is behind the line. The other one is not: rounds are those of two.
class SlowFederation {
 public:
  explicit SlowFederation(uint64_t seed) : federation_(kSites, kJob), random_(seed) {}

  // `kills` of them; the bytes that one came after are its story.
  Status Run(int kills) {
    TG_RETURN_IF_ERROR(federation_.Provision());
    TG_RETURN_IF_ERROR(PutBehindTheLine());
    TG_RETURN_IF_ERROR(federation_.Begin());
    const int64_t deadline = SystemClock().MonotonicMillis() + kMillis;
    uint64_t at = NextBytes();
    for (;;) {
      TG_RETURN_IF_ERROR(federation_.poc().RestartDead());
      if (federation_.poc().done(0) && federation_.poc().done(1)) break;
      const auto counts = link_->counts();
      if (kills > 0 && counts.up_bytes + counts.down_bytes >= at) {
        if (KillOne(at)) --kills;
        at = counts.up_bytes + counts.down_bytes + NextBytes();
      }
      if (SystemClock().MonotonicMillis() > deadline) {
        return DeadlineExceeded("stuck: the job did not end within {} ms", kMillis);
      }
      ::poll(nullptr, 0, 2);
    }
    const auto ended = federation_.RunToTheEnd(kMillis);
    bytes_ = link_->counts().up_bytes + link_->counts().down_bytes;
    TG_RETURN_IF_ERROR(ended);
    return federation_.Stop();
  }

  Federation& federation() { return federation_; }
  const std::string& story() const { return story_; }
  uint64_t bytes() const { return bytes_; }

 private:
  // Replaces the number after `before` in a site's file; the number that was there.
  Result<int> Replace(size_t site, const char* name, const std::string& before, int number) {
    const std::filesystem::path file = federation_.poc().site_dir(site) / name;
    TG_ASSIGN_OR_RETURN(std::string config, ReadTextFile(file, 1 << 20));
    const size_t at = config.find(before);
    if (at == std::string::npos) return Internal("no {} in {}", before, config);
    const size_t first = at + before.size();
    const size_t end = config.find_first_not_of("0123456789", first);
    const int was = std::stoi(config.substr(first, end - first));
    config.replace(first, end - first, std::to_string(number));
    TG_RETURN_IF_ERROR(WriteFileDurably(file, AsBytes(config), 0600));
    return was;
  }

  Status PutBehindTheLine() {
    for (size_t site = 0; site < kSites.size(); ++site) {
      TG_ASSIGN_OR_RETURN([[maybe_unused]] const int was,
                          Replace(site, "policy.toml", "max_rank = ", kJob.rank));
    }
    TG_ASSIGN_OR_RETURN(const int port, Replace(0, "site.toml", "tcp://127.0.0.1:", 1));
    TG_ASSIGN_OR_RETURN(
        link_, transport::LinkEmulator::Start(port, {.bits_per_second = 60e6, .delay_millis = 10}));
    const auto set = Replace(0, "site.toml", "tcp://127.0.0.1:", link_->port());
    return set ? OkStatus() : set.error();
  }

  uint64_t NextBytes() { return 100'000 + random_() % 2'000'000; }

  bool KillOne(uint64_t at) {
    const char* names[] = {"coordinator", "supervisor", "gate", "link"};
    const size_t victim = random_() % std::size(names);
    const cli::Poc& poc = federation_.poc();
    const pid_t pid = victim == 0   ? poc.coordinator_pid()
                      : victim == 1 ? poc.onshore_pid(0)
                                    : poc.child_pid(0, names[victim]);
    if (pid <= 0) return false;
    std::vector<Fd> children;
    for (const char* child : {"gate", "link", "trainer"}) {
      const pid_t child_pid = victim == 1 ? poc.child_pid(0, child) : -1;
      if (child_pid > 0) {
        children.emplace_back(static_cast<int>(::syscall(SYS_pidfd_open, child_pid, 0)));
      }
    }
    ::kill(pid, SIGKILL);
    // All that a supervisor had started goes with it, before anybody starts it again.
    for (const Fd& child : children) {
      pollfd end{child.get(), POLLIN, 0};
      if (child.valid()) ::poll(&end, 1, 5000);
    }
    story_ += fmt::format("{} after {} bytes\n", names[victim], at);
    return true;
  }

  Federation federation_;
  std::mt19937_64 random_;
  std::unique_ptr<transport::LinkEmulator> link_;
  std::string story_;
  uint64_t bytes_ = 0;
};

struct Books {
  CoordinatorBooks coordinator;
  SiteBooks north;
};

Result<Books> ReadBooks(Federation& federation) {
  Books books;
  TG_ASSIGN_OR_RETURN(books.coordinator, ReadCoordinator(federation.poc().coordinator_dir()));
  TG_ASSIGN_OR_RETURN(books.north, ReadSite(federation.poc().site_dir(0)));
  return books;
}

void ExpectAllRight(const Books& books, const Books& undisturbed) {
  EXPECT_TRUE(books.coordinator.parameters == undisturbed.coordinator.parameters) << "wrong bytes";
  EXPECT_EQ(books.coordinator.equivocations, 0u);
  EXPECT_EQ(books.coordinator.Counted("north"), (std::vector<uint32_t>{1, 2}));
  ExpectExactlyOnce(books.coordinator, books.north, "north", {1, 2});
  ExpectFinalAdapter(books.coordinator, books.north, "north");
}

void RunSeed(uint64_t seed, const Books& undisturbed, std::atomic<bool>& told) {
  const int64_t start = SystemClock().MonotonicMillis();
  SlowFederation slow(seed);
  const Status status = slow.Run(kKills);
  SCOPED_TRACE(fmt::format("seed {}\n{}", seed, slow.story()));
  EXPECT_TRUE(status.ok()) << status.ToString();
  if (status.ok()) {
    const auto books = ReadBooks(slow.federation());
    EXPECT_TRUE(books.has_value()) << books.error().ToString();
    if (books) ExpectAllRight(*books, undisturbed);
  }
  std::printf("seed %llu: %.1f MB, %.1f s\n", static_cast<unsigned long long>(seed),
              static_cast<double>(slow.bytes()) / 1e6,
              static_cast<double>(SystemClock().MonotonicMillis() - start) / 1000);
  if (testing::Test::HasFailure() && !told.exchange(true)) {
    std::printf("%s", slow.federation().Logs().c_str());
  }
  std::fflush(stdout);
}

TEST(TransferKills, OfEitherSideLoseNoByteAndCommitNothingTwice) {
  SlowFederation whole(0);
  TIDEGATE_RUNS(whole.federation(), whole.Run(0));
  const auto undisturbed = ReadBooks(whole.federation());
  ASSERT_TRUE(undisturbed.has_value()) << undisturbed.error().ToString();
  ExpectAllRight(*undisturbed, *undisturbed);
  EXPECT_GT(undisturbed->coordinator.versions[0].blocks.size(), 12u) << "a kill comes in between";
  std::printf("undisturbed: %.1f MB\n", static_cast<double>(whole.bytes()) / 1e6);

  const auto [first, last] = Seeds();
  std::atomic<bool> told = false;
  std::atomic<uint64_t> next = first;
  std::vector<std::thread> workers;
  for (int i = 0; i < kAtOnce; ++i) {
    workers.emplace_back([&, last = last] {
      for (uint64_t seed; (seed = next++) <= last;) RunSeed(seed, *undisturbed, told);
    });
  }
  for (std::thread& worker : workers) worker.join();
}

}  // namespace
}  // namespace tidegate::federation_processes
