// Two coordinators that share a federation through PostgreSQL and a folder: kill -9 the one that
// has the lease, in every turn and at every log step, and another goes on; no round is lost, none
// counted twice, and the sums are those of an undisturbed run on SQLite, bit for bit.
//
// TIDEGATE_FAILOVER_SEEDS=FIRST-LAST chooses the seeds of the kills.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/subprocess.h"
#include "federation_fixture.h"
#include "site_driver.h"
#include "tests/federation/server/postgres_server.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;

int64_t Now() { return SystemClock().MonotonicMillis(); }

fs::path TestDir() {
  return fs::path(::testing::TempDir()) /
         ("failover_" +
          std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
}

class PostgresFailover : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(TestDir());
    fs::create_directories(TestDir());
    TIDEGATE_NEEDS_POSTGRES(server);
    server_ = *server;
  }
  void TearDown() override { fs::remove_all(TestDir()); }
  std::string NewDatabase() {
    const auto url = server_->NewDatabase();
    EXPECT_TRUE(url.has_value()) << url.error().ToString();
    return url.value_or("");
  }
  federation::PostgresServer* server_ = nullptr;
};

// Moments between rounds, and half of the adapter by turns.
constexpr const char* kTurnsJob =
    "rounds = 3\ncodec = \"fixed32\"\ndeadline_seconds = 60\nserver_optimizer = \"fedadam\"\n"
    "strategy = \"rolora\"\n[lora]\nr = 4\nalpha = 8\n[train]\nlocal_steps = 1\n";

TEST_F(PostgresFailover, ACrashInAnyTurnLeavesTheNextToAnotherCoordinatorAndChangesNoBit) {
  const auto start = [](TestFederation& federation) {
    for (const char* name : {"north", "south"}) federation.Enrol(name);
    for (const char* name : {"north", "south"}) federation.Connect(name);
    federation.Submit(kTurnsJob);
  };
  TestFederation whole(TestDir() / "whole");
  start(whole);
  whole.Settle();
  const int turns = whole.turns();
  ASSERT_GT(turns, 20);
  for (int at = 0; at < turns; at += 5) {
    SCOPED_TRACE(at);
    fs::remove_all(TestDir() / "shared");
    TestFederation shared(TestDir() / "shared", NewDatabase());
    start(shared);
    const auto fine = [&](int turn) { return turn != at && turn != at + 4; };
    shared.Settle(fine);
    for (int crashes = 0; !shared.open() && crashes < 3; ++crashes) {
      shared.Open();
      for (const char* name : {"north", "south"}) shared.Connect(name);
      for (const char* name : {"north", "south"}) {
        for (const SiteMessage& message : shared.site(name).Resume()) {
          if (shared.open()) shared.Say(name, message);
        }
      }
      shared.Settle(fine);
    }
    for (const char* name : {"north", "south"}) {
      FakeSite& site = shared.site(name);
      EXPECT_EQ(site.parameters, whole.site(name).parameters);
      EXPECT_EQ(site.receipts.size(), 3u);
      EXPECT_EQ(site.bad, 0);
      EXPECT_TRUE(site.errors.empty());
    }
  }
}

std::string Program(const char* name) { return (fs::path(TIDEGATE_BIN_DIR) / name).native(); }

constexpr uint32_t kRounds = 24;

// Coordinator processes with two scripted sites over real sockets.
class PostgresFailoverProcesses : public PostgresFailover {
 protected:
  struct Coordinator {
    fs::path dir;
    std::string address;
    ChildProcess process;
    size_t heard = 0;  // of its log
    fs::path log() const { return dir / "log"; }
  };

  // `url` empty: one coordinator with its own store. Else `count` that share it; with `one_address`
  // they bind the same, whoever has the lease.
  void Make(const std::string& name, const std::string& url, size_t count, bool one_address) {
    root_ = TestDir() / name;
    url_ = url;
    const std::string address = FreeAddress();
    MakeCoordinatorDir(root_ / "keys-of-all", address);
    fs::create_directories(root_ / "shared");
    coordinators_ = std::vector<Coordinator>(count);
    for (size_t i = 0; i < count; ++i) {
      Coordinator& c = coordinators_[i];
      c.dir = root_ / fmt::format("coordinator{}", i);
      c.address = one_address ? address : FreeAddress();
      std::string lines = fmt::format("listen = \"{}\"\n", c.address);
      if (!url.empty()) {
        lines += fmt::format("store = \"{}\"\nshared_folder = \"{}\"\ntakeover_seconds = 1\n", url,
                             (root_ / "shared").native());
      }
      CopyCoordinatorDir(root_ / "keys-of-all", c.dir, lines);
    }
    const auto keys = LoadFederationKeys(coordinators_[0].dir);
    std::ranges::copy(keys->curve.public_key(), key_.begin());
    sites_.clear();
    drivers_.clear();
    for (const char* site : {"north", "south"}) {
      sites_.push_back(std::make_unique<FakeSite>(site, keys->sign.verify_key()));
      Ask(coordinators_[0], {{"verb", "site_approve"}, {"request", sites_.back()->Request()}});
    }
    nlohmann::json submit = SubmitRequest(
        fmt::format("rounds = {}\ncodec = \"fixed32\"\ndeadline_seconds = 600\n[lora]\nr = 4\n"
                    "[train]\nlocal_steps = 1\n",
                    kRounds));
    Ask(coordinators_[0], submit);
  }
  static void Ask(const Coordinator& coordinator, const nlohmann::json& request) {
    // The one before may still have the lease for a moment.
    const int64_t end = Now() + 10'000;
    while (true) {
      const auto result = RunCommand({Program("tidegate-coordinator"), "--dir",
                                      coordinator.dir.native(), "--request", request.dump()},
                                     30'000);
      ASSERT_TRUE(result.has_value());
      if (result->exit_code == static_cast<int>(Code::kUnavailable) && Now() < end) continue;
      ASSERT_EQ(result->exit_code, 0) << result->output << result->errors;
      return;
    }
  }
  static void Start(Coordinator& coordinator) {
    coordinator.process =
        ChildProcess::Start({Program("tidegate-coordinator"), "--dir", coordinator.dir.native()},
                            coordinator.log())
            .value();
  }
  void Dial(const std::string& address) {
    const auto config = LoadFederationConfig(coordinators_[0].dir);
    drivers_.clear();
    for (auto& site : sites_) {
      drivers_.push_back(std::make_unique<SiteDriver>(*site, address, config->federation, key_));
    }
  }
  // What a coordinator has logged since the last call.
  static std::string News(Coordinator& coordinator) {
    const std::string text = ReadTextFile(coordinator.log(), 1 << 26).value_or("");
    std::string news = text.substr(std::min(coordinator.heard, text.size()));
    coordinator.heard = text.size();
    return news;
  }
  bool WaitForLine(Coordinator& coordinator, const std::string& line) {
    const int64_t end = Now() + 20'000;
    std::string all;
    while (Now() < end) {
      all += News(coordinator);
      if (all.find(line) != std::string::npos) return true;
      coordinator.process.Wait(5);
    }
    return false;
  }
  bool Ended() const {
    return std::all_of(sites_.begin(), sites_.end(), [](const auto& site) {
      return site->ended && site->receipts.size() == kRounds;
    });
  }
  bool RunToTheEnd(
      int64_t millis, const std::function<void()>& now_and_then = [] {}) {
    const int64_t end = Now() + millis;
    while (!Ended()) {
      if (Now() > end) return false;
      for (auto& driver : drivers_) EXPECT_TRUE(driver->Step(1));
      now_and_then();
    }
    return true;
  }
  std::string Logs() const {
    std::string all;
    for (const Coordinator& c : coordinators_) {
      const std::string text = ReadTextFile(c.log(), 1 << 26).value_or("");
      all += "=== " + c.dir.native() + "\n" +
             text.substr(text.size() - std::min<size_t>(text.size(), 6000));
    }
    return all;
  }
  std::string Sql(const std::string& sql) {
    const auto answer = server_->Ask(url_, sql);
    EXPECT_TRUE(answer.has_value()) << answer.error().ToString();
    return answer.value_or("");
  }
  // Every row of every table but who has the lease, and every file of the shared folder.
  std::string Everything() {
    std::string all;
    for (const char* table : {"meta", "sites", "heads", "jobs", "rounds", "updates", "receipts",
                              "versions", "notices", "events", "equivocations", "moments"}) {
      all +=
          Sql(fmt::format("SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) "
                          "FROM {} AS t",
                          table));
    }
    std::vector<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(root_ / "shared")) {
      files.push_back(entry.path().native());
      if (entry.is_regular_file()) {
        files.back() += " " + ToHex(*ReadFile(entry.path(), 1 << 26));
      }
    }
    std::sort(files.begin(), files.end());
    for (const std::string& file : files) all += file + "\n";
    return all;
  }
  void ExpectNothingLostOrCountedTwice(const std::vector<float>& whole) {
    for (const auto& site : sites_) {
      EXPECT_EQ(site->parameters, whole) << site->name();
      EXPECT_EQ(site->receipts.size(), kRounds);
      EXPECT_EQ(site->bad, 0);
      for (const auto& error : site->errors) ADD_FAILURE() << error.text.text;
    }
    EXPECT_EQ(Sql("SELECT count(*) FROM updates WHERE outcome = 1"),
              fmt::format("{}\n", 2 * kRounds));
    EXPECT_EQ(Sql("SELECT count(*) FROM events WHERE kind = 2"), fmt::format("{}\n", 2 * kRounds));
    EXPECT_EQ(Sql("SELECT count(*) FROM events WHERE kind = 4"), fmt::format("{}\n", kRounds));
    EXPECT_EQ(Sql("SELECT count(*) FROM notices"), "0\n");
    EXPECT_EQ(Sql("SELECT count(*) FROM equivocations"), "0\n");
    EXPECT_EQ(Sql("SELECT count(*) FROM rounds WHERE recipient_secret IS NOT NULL"), "0\n");
  }
  std::vector<float> Undisturbed() {
    Make("undisturbed", "", 1, true);
    Start(coordinators_[0]);
    Dial(coordinators_[0].address);
    EXPECT_TRUE(RunToTheEnd(60'000)) << Logs();
    coordinators_[0].process.Signal(SIGTERM);
    coordinators_[0].process.Wait(5000);
    return sites_[0]->parameters;
  }

  fs::path root_;
  std::string url_;
  std::vector<Coordinator> coordinators_;
  std::array<uint8_t, 32> key_{};
  std::vector<std::unique_ptr<FakeSite>> sites_;
  std::vector<std::unique_ptr<SiteDriver>> drivers_;
};

// A coordinator logs before it commits: a kill comes a moment before the commit or after it.
constexpr const char* kSteps[] = {" lease_taken ",     " serving ",          " round_opened ",
                                  " site_connected ",  " update_accepted ",  " version_published ",
                                  " update_accepted ", " version_published "};

std::pair<uint64_t, uint64_t> Seeds() {
  const char* text = std::getenv("TIDEGATE_FAILOVER_SEEDS");
  unsigned long first = 1, last = 1;
  if (text != nullptr && std::sscanf(text, "%lu-%lu", &first, &last) != 2) {
    ADD_FAILURE() << "TIDEGATE_FAILOVER_SEEDS=" << text << " is not FIRST-LAST";
  }
  return {first, last};
}

TEST_F(PostgresFailoverProcesses, KillsOfWhoeverHasTheLeaseAtEveryStepChangeNoBit) {
  const std::vector<float> whole = Undisturbed();
  const auto [first, last] = Seeds();
  for (uint64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE(seed);
    Make(fmt::format("seed{}", seed), NewDatabase(), 2, true);
    for (Coordinator& c : coordinators_) Start(c);
    Dial(coordinators_[0].address);
    size_t kills = 0;
    const auto next = [&] { return std::string(kSteps[kills % std::size(kSteps)]); };
    const size_t planned = std::size(kSteps) * 2;
    const bool ended = RunToTheEnd(120'000, [&] {
      for (Coordinator& c : coordinators_) {
        const std::string news = News(c);
        if (kills >= planned || news.find(next()) == std::string::npos) continue;
        const auto dice = RandomWords(seed, RngPurpose::kTest, static_cast<uint32_t>(kills), 0);
        // Half of the time at once: most of what can go wrong lies within a millisecond.
        if (dice[0] % 2 == 0) ::usleep(UniformBelow(dice[1], 5000));
        c.process.Signal(SIGKILL);
        ASSERT_EQ(c.process.Wait(5000), 128 + SIGKILL);
        ++kills;
        // As systemd does; it stands by now.
        Start(c);
      }
    });
    ASSERT_TRUE(ended) << Logs();
    EXPECT_EQ(kills, planned);
    ExpectNothingLostOrCountedTwice(whole);
    EXPECT_GT(std::stoi(Sql("SELECT generation FROM lease")), static_cast<int>(planned));
    coordinators_.clear();
  }
}

TEST_F(PostgresFailoverProcesses, OneThatWasStoppedPastItsLeaseChangesNothingWhenItGoesOn) {
  const std::vector<float> whole = Undisturbed();
  for (const char* step : {" update_accepted ", " version_published "}) {
    SCOPED_TRACE(step);
    Make(std::string(1, step[1]), NewDatabase(), 2, false);
    Coordinator &one = coordinators_[0], &two = coordinators_[1];
    Start(one);
    ASSERT_TRUE(WaitForLine(one, " serving ")) << Logs();
    Start(two);
    ASSERT_TRUE(WaitForLine(two, " standing_by ")) << Logs();
    // Asked in the other's place, it says who has the federation.
    const auto asked =
        RunCommand({Program("tidegate"), "status", "--dir", two.dir.native()}, 30'000);
    ASSERT_TRUE(asked.has_value());
    EXPECT_EQ(asked->exit_code, static_cast<int>(Code::kUnavailable)) << asked->errors;
    EXPECT_NE(asked->errors.find("stands by; "), std::string::npos) << asked->errors;
    EXPECT_NE(asked->errors.find(one.dir.native()), std::string::npos) << asked->errors;
    Dial(one.address);
    const int64_t end = Now() + 20'000;
    while (News(one).find(step) == std::string::npos) {
      ASSERT_LT(Now(), end) << Logs();
      for (auto& driver : drivers_) driver->Step(1);
    }
    one.process.Signal(SIGSTOP);
    ASSERT_TRUE(WaitForLine(two, " serving ")) << Logs();
    Dial(two.address);
    ASSERT_TRUE(RunToTheEnd(60'000)) << Logs();
    ExpectNothingLostOrCountedTwice(whole);
    const std::string before = Everything();
    one.process.Signal(SIGCONT);
    EXPECT_EQ(one.process.Wait(20'000), static_cast<int>(Code::kUnavailable)) << Logs();
    EXPECT_EQ(Everything(), before);
    coordinators_.clear();
  }
}

TEST_F(PostgresFailover, TheBlocksOfWhoHasTheLeaseAreOutOfReachOfWhoLostIt) {
  fs::create_directories(TestDir() / "shared");
  const std::string url = NewDatabase();
  const auto connect = [&](const char* name) {
    return federation::SharedStore::Connect({url, TestDir() / "shared", name, 60'000}).value();
  };
  const auto one = connect("one"), two = connect("two");
  auto held = one->Take().value();
  ASSERT_TRUE(held.has_value());
  auto old = blocks::BlockStore::Open(held->folder / "blocks", 1 << 20).value();
  const Bytes kept(100, 1), fresh(100, 2);
  ASSERT_TRUE(old.PutHashed(Digest{1}, kept).ok());
  ASSERT_TRUE(old.Sync().ok());
  // Written, and not yet named.
  ASSERT_TRUE(old.PutHashed(Digest{2}, fresh).ok());
  ASSERT_TRUE(server_->Ask(url, "UPDATE lease SET until = '-infinity'").has_value());
  const int64_t end = Now() + 20'000;
  auto taken = two->Take().value();
  while (!taken && Now() < end) taken = two->Take().value();
  ASSERT_TRUE(taken.has_value());
  auto next = blocks::BlockStore::Open(taken->folder / "blocks", 1 << 20).value();
  EXPECT_TRUE(next.Has(Digest{1}));
  EXPECT_FALSE(old.Sync().ok());
  EXPECT_FALSE(old.PutHashed(Digest{3}, fresh).ok());
  [[maybe_unused]] const Status removed = old.Remove(Digest{1});
  EXPECT_EQ(*next.GetUnverified(Digest{1}), kept);
  EXPECT_FALSE(next.Has(Digest{2}));
  EXPECT_FALSE(next.Has(Digest{3}));
}

}  // namespace
}  // namespace tidegate::offshore
