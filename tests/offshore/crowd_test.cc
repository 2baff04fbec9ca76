// A small crowd of connections; bench/connections_bench.cc has the large one.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "federation_fixture.h"
#include "site_crowd.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSites = 50;
constexpr uint32_t kRounds = 3;

TEST(Crowd, EveryRoundOfFiftySitesEndsForEachOfThem) {
  const fs::path dir = fs::path(::testing::TempDir()) / "crowd_of_fifty";
  MakeCoordinatorDir(dir, FreeAddress());
  auto crowd = SiteCrowd::Enrol(
      dir, kSites,
      SubmitRequest(fmt::format("rounds = {}\ndeadline_seconds = 600\n[lora]\nr = 2\n", kRounds)));
  ASSERT_TRUE(crowd.has_value()) << crowd.error().ToString();
  const std::string program = (fs::path(TIDEGATE_BIN_DIR) / "tidegate-coordinator").native();
  auto coordinator = ChildProcess::Start({program, "--dir", dir.native()}, dir / "log");
  ASSERT_TRUE(coordinator.has_value());
  crowd->Dial();
  const int64_t end = SystemClock().MonotonicMillis() + 60'000;
  while (crowd->ended(kRounds) < kSites && SystemClock().MonotonicMillis() < end) {
    ASSERT_TRUE(crowd->Step());
  }
  EXPECT_EQ(crowd->ended(kRounds), kSites) << ReadTextFile(dir / "log", 1 << 24).value_or("");
  for (const auto& site : crowd->sites()) {
    EXPECT_EQ(site->parameters, crowd->sites()[0]->parameters);
    EXPECT_EQ(site->bad, 0);
    EXPECT_TRUE(site->errors.empty());
  }
  coordinator->Signal(SIGTERM);
  EXPECT_EQ(coordinator->Wait(10'000), 0);
  fs::remove_all(dir);
}

}  // namespace
}  // namespace tidegate::offshore
