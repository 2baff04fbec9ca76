// The coordinator as a process: real sockets on loopback, kill -9 in the middle of rounds.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <csignal>
#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/subprocess.h"
#include "federation_fixture.h"
#include "site_driver.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;

// A port that is free now; sockets that listen take it with SO_REUSEADDR.
int FreePort() {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  return ntohs(address.sin_port);
}

class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() {
    root_ =
        fs::path(::testing::TempDir()) /
        ("process_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  ~ProcessTest() override { fs::remove_all(root_); }

  static fs::path Program(const char* name) { return fs::path(TIDEGATE_BIN_DIR) / name; }

  void Make(const fs::path& dir) {
    dir_ = dir;
    address_ = fmt::format("tcp://127.0.0.1:{}", FreePort());
    MakeCoordinatorDir(dir, address_);
    config_ = LoadFederationConfig(dir).value();
    keys_ = std::make_unique<FederationKeys>(LoadFederationKeys(dir).value());
    drivers_.clear();
    sites_.clear();
    for (const char* name : {"north", "south"}) {
      sites_.push_back(std::make_unique<FakeSite>(name, keys_->sign.verify_key()));
      Ask({{"verb", "site_approve"}, {"request", sites_.back()->Request()}});
    }
  }
  void Ask(const nlohmann::json& request) {
    const auto result = RunCommand({Program("tidegate-coordinator").native(), "--dir",
                                    dir_.native(), "--request", request.dump()},
                                   30'000);
    ASSERT_TRUE(result.has_value());
    ASSERT_EQ(result->exit_code, 0) << result->output << result->errors;
  }
  void Start() {
    coordinator_ =
        ChildProcess::Start({Program("tidegate-coordinator").native(), "--dir", dir_.native()},
                            dir_ / "log")
            .value();
  }
  void WaitForAdmin() {
    const int64_t end = SystemClock().MonotonicMillis() + 10'000;
    while (!fs::exists(dir_ / "admin.sock") && SystemClock().MonotonicMillis() < end) {
      coordinator_.Wait(20);
    }
  }
  void Connect() {
    for (auto& site : sites_) {
      drivers_.push_back(std::make_unique<SiteDriver>(*site, address_, config_.federation,
                                                      keys_->curve.public_key()));
    }
  }
  std::string Log() { return ReadTextFile(dir_ / "log", 1 << 24).value_or(""); }
  // Until both sites have the final adapter and the receipts of their updates. `now_and_then` is
  // called between steps.
  bool RunToTheEnd(int64_t millis, const std::function<void()>& now_and_then) {
    const int64_t end = SystemClock().MonotonicMillis() + millis;
    while (SystemClock().MonotonicMillis() < end) {
      bool ended = true;
      for (size_t i = 0; i < sites_.size(); ++i) {
        EXPECT_TRUE(drivers_[i]->Step(2));
        ended = ended && sites_[i]->ended && sites_[i]->receipts.size() == 12;
      }
      if (ended) return true;
      now_and_then();
    }
    return false;
  }

  fs::path root_, dir_;
  std::string address_;
  FederationConfig config_;
  std::unique_ptr<FederationKeys> keys_;
  std::vector<std::unique_ptr<FakeSite>> sites_;
  std::vector<std::unique_ptr<SiteDriver>> drivers_;
  ChildProcess coordinator_;
  uint64_t steps_ = 0;
};

constexpr const char* kRounds =
    "rounds = 12\ncodec = \"fixed32\"\ndeadline_seconds = 60\n[lora]\nr = 4\n"
    "[train]\nlocal_steps = 1\n";

TEST_F(ProcessTest, AJobRunsOverRealSocketsAndAKillAnywhereChangesNoBitOfIt) {
  Make(root_ / "whole");
  Start();
  Connect();
  // Submitted through the socket of the running coordinator.
  const fs::path base = fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama";
  const std::string toml = fmt::format("base = \"{}\"\n{}", base.native(), kRounds);
  ASSERT_TRUE(WriteFileDurably(root_ / "triage.toml", AsBytes(toml)).ok());
  WaitForAdmin();
  const auto submitted = RunCommand({Program("tidegate").native(), "job", "submit",
                                     (root_ / "triage.toml").native(), "--dir", dir_.native()},
                                    30'000);
  ASSERT_TRUE(submitted.has_value());
  ASSERT_EQ(submitted->exit_code, 0) << submitted->errors << Log();
  ASSERT_TRUE(RunToTheEnd(20'000, [] {})) << Log();
  const std::vector<float> whole = sites_[0]->parameters;
  EXPECT_EQ(sites_[1]->parameters, whole);
  EXPECT_EQ(sites_[0]->receipts.size(), 12u);
  EXPECT_TRUE(sites_[0]->errors.empty());
  coordinator_.Signal(SIGTERM);
  EXPECT_EQ(coordinator_.Wait(5000), 0) << Log();

  for (uint64_t seed = 1; seed <= 3; ++seed) {
    Make(root_ / fmt::format("killed{}", seed));
    Ask(SubmitRequest(kRounds));
    Start();
    Connect();
    int kills = 0;
    uint32_t killed_at = 0;
    const bool ended = RunToTheEnd(20'000, [&] {
      const auto round = static_cast<uint32_t>(sites_[0]->receipts.size());
      // Somewhere in some of the rounds: after a random number of steps of it.
      if (kills >= 3 || round < 2 + 3 * static_cast<uint32_t>(kills) || round == killed_at) return;
      const auto dice =
          RandomWords(seed, RngPurpose::kTest, static_cast<uint32_t>(kills), ++steps_);
      if (UniformBelow(dice[0], 4) != 0) return;
      coordinator_.Signal(SIGKILL);
      ASSERT_EQ(coordinator_.Wait(5000), 128 + SIGKILL);
      killed_at = round;
      ++kills;
      Start();
    });
    ASSERT_TRUE(ended) << "seed " << seed << "\n" << Log();
    EXPECT_GE(kills, 2) << "seed " << seed;
    for (const auto& site : sites_) {
      EXPECT_EQ(site->parameters, whole) << "seed " << seed;
      EXPECT_EQ(site->receipts.size(), 12u);
      EXPECT_EQ(site->bad, 0);
    }
    coordinator_.Signal(SIGTERM);
    EXPECT_EQ(coordinator_.Wait(5000), 0);
  }
}

TEST_F(ProcessTest, ASiteIsLetInAndShutOutWhileTheCoordinatorRuns) {
  Make(root_ / "live");
  Start();
  WaitForAdmin();
  FakeSite east("east", keys_->sign.verify_key());
  SiteDriver driver(east, address_, config_.federation, keys_->curve.public_key());
  const auto until = [&](bool connected, int64_t millis) {
    const int64_t end = SystemClock().MonotonicMillis() + millis;
    while (driver.connected() != connected && SystemClock().MonotonicMillis() < end) {
      EXPECT_TRUE(driver.Step(10));
    }
    return driver.connected() == connected;
  };
  EXPECT_FALSE(until(true, 300)) << "not enrolled";
  ASSERT_TRUE(WriteFileDurably(root_ / "east.request", AsBytes(east.Request())).ok());
  const auto tool = [&](std::vector<std::string> words) {
    words.insert(words.begin(), Program("tidegate").native());
    words.insert(words.end(), {"--dir", dir_.native()});
    const auto result = RunCommand(words, 30'000);
    EXPECT_TRUE(result.has_value() && result->exit_code == 0) << result->errors << Log();
    return result ? result->output : "";
  };
  tool({"site", "approve", (root_ / "east.request").native()});
  SiteDriver again(east, address_, config_.federation, keys_->curve.public_key());
  const int64_t end = SystemClock().MonotonicMillis() + 10'000;
  while (!again.connected() && SystemClock().MonotonicMillis() < end) again.Step(10);
  ASSERT_TRUE(again.connected()) << Log();
  const auto status = nlohmann::json::parse(tool({"status", "--format", "json"}));
  EXPECT_EQ(status["sites"][0]["name"], "east");
  EXPECT_EQ(status["sites"][0]["connected"], true);
  tool({"site", "revoke", "east"});
  while (again.connected() && SystemClock().MonotonicMillis() < end) again.Step(10);
  EXPECT_FALSE(again.connected());
}

TEST_F(ProcessTest, ASecondCoordinatorOnTheSameFolderIsRefused) {
  Make(root_ / "one");
  Start();
  WaitForAdmin();
  const auto second =
      RunCommand({Program("tidegate-coordinator").native(), "--dir", dir_.native()}, 10'000);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->exit_code, 9);
  EXPECT_NE(second->errors.find("in use by another coordinator"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::offshore
