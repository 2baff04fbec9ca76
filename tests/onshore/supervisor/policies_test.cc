#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "onshore/api/events.h"
#include "onshore/supervisor/generations.h"
#include "onshore/supervisor/line_budget.h"
#include "onshore/supervisor/restart_policy.h"

namespace tidegate::onshore {
namespace {

TEST(RestartPolicyTest, TheDelayDoublesUpToItsMostAndStartsAgainAfterASteadyLife) {
  RestartPolicy policy;
  int64_t now = 1000;
  for (const int64_t expected : {50, 100, 200, 400, 800, 1600, 3200, 5000, 5000}) {
    policy.Started(now);
    EXPECT_EQ(policy.Ended(now += 10), expected);
  }
  policy.Started(now);
  now += RestartPolicy::kSteadyMillis - 1;
  EXPECT_EQ(policy.Ended(now), 5000);
  policy.Started(now);
  now += RestartPolicy::kSteadyMillis;
  EXPECT_EQ(policy.Ended(now), 50);
  policy.Started(now);
  EXPECT_EQ(policy.Ended(now), 100);
}

TEST(RestartPolicyTest, SixtyEndsInTenMinutesAreTheMost) {
  RestartPolicy policy;
  for (int i = 0; i < 60; ++i) {
    policy.Started(i * 1000);
    EXPECT_TRUE(policy.Ended(i * 1000)) << i;
  }
  EXPECT_FALSE(policy.Ended(60'000));
  // Ends that are older than the window do not count.
  EXPECT_TRUE(policy.Ended(600'000 + 1500));
  EXPECT_FALSE(policy.Ended(600'000 + 1500));
}

TEST(RestartPolicyTest, ThreeRefusalsInARowSoonAfterTheStartAreHopeless) {
  RestartPolicy policy;
  policy.Started(0);
  EXPECT_FALSE(policy.Hopeless(1, true));
  EXPECT_FALSE(policy.Hopeless(2, true));
  EXPECT_FALSE(policy.Hopeless(3, false)) << "a crash is between them";
  EXPECT_FALSE(policy.Hopeless(4, true));
  EXPECT_FALSE(policy.Hopeless(5, true));
  EXPECT_FALSE(policy.Hopeless(RestartPolicy::kSteadyMillis, true)) << "it ran";
  EXPECT_FALSE(policy.Hopeless(6, true));
  EXPECT_FALSE(policy.Hopeless(7, true));
  EXPECT_TRUE(policy.Hopeless(8, true));
}

TEST(LineBudgetTest, ABurstThenARateAndTheDroppedAreCounted) {
  LineBudget budget;
  int64_t now = 5'000'000;
  for (int i = 0; i < LineBudget::kBurst; ++i) EXPECT_TRUE(budget.Take(now));
  EXPECT_FALSE(budget.Take(now));
  EXPECT_FALSE(budget.Take(now + 49));
  EXPECT_TRUE(budget.Take(now + 50));
  EXPECT_EQ(budget.TakeDropped(), 2u);
  EXPECT_EQ(budget.TakeDropped(), 0u);
  now += 3'600'000;
  for (int i = 0; i < LineBudget::kBurst; ++i) EXPECT_TRUE(budget.Take(now));
  EXPECT_FALSE(budget.Take(now)) << "an hour of silence is no more than a burst";
}

TEST(EventTextTest, EveryEventHasItsTextAndOthersAreNumbers) {
  const std::array<int64_t, 4> a = {3, 4912345, 17, 9};
  EXPECT_EQ(EventText(4, a), "update_released round=3 bytes=4912345 ledger_index=17");
  EXPECT_EQ(EventText(8, a), "coordinator_connected");
  EXPECT_EQ(EventText(11, {2, -1, 5, 1}),
            "adapter_evaluated version=2 best_milli=-1 loss_milli=5 kept=1");
  for (uint32_t code = 1; code <= static_cast<uint32_t>(EventCode::kLeaseAnswered); ++code) {
    EXPECT_FALSE(EventText(code, a).starts_with("unknown")) << code;
  }
  EXPECT_EQ(EventText(103, {2, 1, 11, 0}),
            "process_ended name=trainer how=crash signal=11 status=0");
  EXPECT_EQ(EventText(103, {-1, 77, 0, 0}),
            "process_ended name=unknown how=unknown signal=0 status=0");
  EXPECT_EQ(EventText(102, {0, 5, 0, 0}), "process_ready name=gate walls=0x5");
  EXPECT_EQ(NamedArguments(4, a), (std::array<int64_t, 4>{3, 4912345, 17, 0})) << "9 has no name";
  EXPECT_EQ(NamedArguments(99, a), (std::array<int64_t, 4>{}));
  for (uint32_t code = 101; code <= static_cast<uint32_t>(EventCode::kClientRefused); ++code) {
    EXPECT_FALSE(EventText(code, a).starts_with("unknown")) << code;
  }
  EXPECT_EQ(EventText(0, a), "unknown_event code=0");
  EXPECT_EQ(EventText(4'000'000'000u, a), "unknown_event code=4000000000");
}

class GenerationsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tidegate-gen-XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::filesystem::path dir_;
};

TEST_F(GenerationsTest, TheyGrowOverRestartsAndNoneIsGivenTwice) {
  const auto file = dir_ / "generation";
  EXPECT_EQ(*NextGeneration(file), 1u);
  EXPECT_EQ(*NextGeneration(file), 2u);
  EXPECT_EQ(*ReadTextFile(file, 10), "2");
  ASSERT_TRUE(WriteFileDurably(file, AsBytes(std::string("4294967294"))).ok());
  EXPECT_EQ(*NextGeneration(file), 4294967295u);
  EXPECT_EQ(NextGeneration(file).error().code(), Code::kDataLoss);
}

TEST_F(GenerationsTest, ADamagedOrUnreadableFileIsAnErrorAndStaysAsItIs) {
  const auto file = dir_ / "generation";
  for (const std::string text : {"", "12\n", "-1", "x", "99999999999", "1 2"}) {
    ASSERT_TRUE(WriteFileDurably(file, AsBytes(text)).ok());
    const auto next = NextGeneration(file);
    ASSERT_FALSE(next) << text;
    EXPECT_EQ(next.error().code(), Code::kDataLoss) << text;
    EXPECT_EQ(*ReadTextFile(file, 64), text);
  }
  std::filesystem::create_directory(dir_ / "folder");
  EXPECT_FALSE(NextGeneration(dir_ / "folder"));
  EXPECT_EQ(NextGeneration(dir_ / "none" / "generation").error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace tidegate::onshore
