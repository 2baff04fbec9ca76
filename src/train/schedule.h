// Learning-rate schedules, step for step as the transformers library computes them
// (optimization.py): the multiplier of step s, counted from 0, so that with warm-up the first
// update has learning rate 0. Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace tidegate::train {

enum class SchedulerType : uint8_t {
  kLinear = 0,              // down to 0 at total_steps
  kCosine = 1,              // half a cosine down to 0 at total_steps
  kConstant = 2,            // no warm-up
  kConstantWithWarmup = 3,  // warm-up, then level
  // For pretraining; both end at min_lr_ratio of the peak.
  kCosineWithMinLr = 4,    // kCosine down to there
  kWarmupStableDecay = 5,  // level until the last decay_steps, then half a cosine down
};

std::string_view SchedulerName(SchedulerType type);
// "linear", "cosine", "constant", "constant_with_warmup", "cosine_with_min_lr",
// "warmup_stable_decay"; others are refused with this list.
Result<SchedulerType> ParseScheduler(std::string_view name);

struct ScheduleConfig {
  SchedulerType type = SchedulerType::kCosine;
  double learning_rate = 0;  // the peak
  int64_t warmup_steps = 0;  // must be below total_steps
  int64_t total_steps = 1;   // over all rounds of a federated job
  double min_lr_ratio = 0;   // [0, 1], of kCosineWithMinLr and kWarmupStableDecay
  int64_t decay_steps = 0;   // of kWarmupStableDecay
};

// Names the field that is out of range.
Status CheckSchedule(const ScheduleConfig& config);

// The learning rate of optimizer step `step` (from 0). Beyond total_steps it stays at its end.
double LearningRate(const ScheduleConfig& config, int64_t step);

// Warm-up steps as transformers derives them: `warmup_steps` if above 0, else
// ceil(total_steps · warmup_ratio).
int64_t WarmupSteps(int64_t warmup_steps, double warmup_ratio, int64_t total_steps);

}  // namespace tidegate::train
