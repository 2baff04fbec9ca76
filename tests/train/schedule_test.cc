#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tidegate::train {
namespace {

constexpr double kPeak = 2e-4;

ScheduleConfig Make(SchedulerType type, int64_t warmup, int64_t total) {
  return {.type = type, .learning_rate = kPeak, .warmup_steps = warmup, .total_steps = total};
}

// Multipliers of get_linear_schedule_with_warmup(2, 10), which the golden traces were made with.
TEST(Schedule, LinearEqualsTransformersStepByStep) {
  const double expected[] = {0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0};
  const auto config = Make(SchedulerType::kLinear, 2, 10);
  for (int64_t step = 0; step <= 10; ++step) {
    EXPECT_DOUBLE_EQ(LearningRate(config, step), kPeak * expected[step]) << step;
  }
  EXPECT_EQ(LearningRate(config, 11), 0.0);
}

TEST(Schedule, CosineEqualsTransformersStepByStep) {
  // get_cosine_schedule_with_warmup(2, 6): 0, .5, then ½(1 + cos(π k/4)).
  const double root = std::sqrt(0.5);
  const double expected[] = {0, 0.5, 1, 0.5 * (1 + root), 0.5, 0.5 * (1 - root), 0};
  const auto config = Make(SchedulerType::kCosine, 2, 6);
  for (int64_t step = 0; step <= 6; ++step) {
    EXPECT_NEAR(LearningRate(config, step), kPeak * expected[step], kPeak * 1e-15) << step;
  }
}

// get_cosine_with_min_lr_schedule_with_warmup(2, 6, min_lr_rate=0.1) and
// get_wsd_schedule(2, 4, num_training_steps=10, min_lr_ratio=0.1) of transformers 5.24.
TEST(Schedule, SchedulesOfPretrainingEqualTransformersStepByStep) {
  const double cosine[] = {0, 0.5, 1, 0.8681980515339464, 0.55, 0.23180194846605367, 0.1, 0.1};
  ScheduleConfig config = Make(SchedulerType::kCosineWithMinLr, 2, 6);
  config.min_lr_ratio = 0.1;
  for (int64_t step = 0; step < std::ssize(cosine); ++step) {
    EXPECT_NEAR(LearningRate(config, step), kPeak * cosine[step], kPeak * 1e-15) << step;
  }
  const double wsd[] = {0.1, 0.55, 1, 1, 1, 1, 1, 0.8681980515339464, 0.55, 0.23180194846605367,
                        0.1, 0.1};
  config = Make(SchedulerType::kWarmupStableDecay, 2, 10);
  config.min_lr_ratio = 0.1;
  config.decay_steps = 4;
  for (int64_t step = 0; step < std::ssize(wsd); ++step) {
    EXPECT_NEAR(LearningRate(config, step), kPeak * wsd[step], kPeak * 1e-15) << step;
  }
}

TEST(Schedule, DecayStepsHaveToFit) {
  ScheduleConfig config = Make(SchedulerType::kWarmupStableDecay, 2, 10);
  for (const int64_t steps : {0, 9}) {
    config.decay_steps = steps;
    EXPECT_NE(CheckSchedule(config).message().find("decay_steps"), std::string::npos) << steps;
  }
  config.decay_steps = 8;
  EXPECT_TRUE(CheckSchedule(config).ok());
  config.min_lr_ratio = 1.5;
  EXPECT_NE(CheckSchedule(config).message().find("min_lr_ratio"), std::string::npos);
}

TEST(Schedule, FirstUpdateHasRateZeroExactlyWhenThereIsWarmup) {
  for (const auto type :
       {SchedulerType::kLinear, SchedulerType::kCosine, SchedulerType::kConstantWithWarmup}) {
    EXPECT_EQ(LearningRate(Make(type, 3, 10), 0), 0.0) << SchedulerName(type);
    EXPECT_EQ(LearningRate(Make(type, 0, 10), 0), kPeak) << SchedulerName(type);
  }
  EXPECT_EQ(LearningRate(Make(SchedulerType::kConstant, 3, 10), 0), kPeak);
}

TEST(Schedule, ConstantWithWarmupStaysLevel) {
  const auto config = Make(SchedulerType::kConstantWithWarmup, 4, 8);
  EXPECT_DOUBLE_EQ(LearningRate(config, 3), kPeak * 0.75);
  for (int64_t step = 4; step < 20; ++step) EXPECT_EQ(LearningRate(config, step), kPeak);
}

TEST(Schedule, WarmupRatioRoundsUpAndStepsWin) {
  EXPECT_EQ(WarmupSteps(0, 0.03, 100), 3);
  EXPECT_EQ(WarmupSteps(0, 0.03, 101), 4);
  EXPECT_EQ(WarmupSteps(7, 0.03, 100), 7);
  EXPECT_EQ(WarmupSteps(0, 0.0, 100), 0);
}

TEST(Schedule, NamesRoundTripAndOthersAreRefused) {
  for (const auto type : {SchedulerType::kLinear, SchedulerType::kCosine, SchedulerType::kConstant,
                          SchedulerType::kConstantWithWarmup, SchedulerType::kCosineWithMinLr,
                          SchedulerType::kWarmupStableDecay}) {
    EXPECT_EQ(ParseScheduler(SchedulerName(type)).value(), type);
  }
  const auto refused = ParseScheduler("polynomial");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("constant_with_warmup"), std::string::npos);
}

TEST(Schedule, RefusesWhatCannotBe) {
  EXPECT_FALSE(CheckSchedule({.learning_rate = NAN}).ok());
  EXPECT_FALSE(CheckSchedule({.learning_rate = -1}).ok());
  EXPECT_FALSE(CheckSchedule({.total_steps = 0}).ok());
  EXPECT_FALSE(CheckSchedule({.warmup_steps = 11, .total_steps = 10}).ok());
  EXPECT_TRUE(CheckSchedule({.learning_rate = 0, .warmup_steps = 10, .total_steps = 10}).ok());
}

}  // namespace
}  // namespace tidegate::train
