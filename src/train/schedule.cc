#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tidegate::train {
namespace {

constexpr std::string_view kNames[] = {"linear", "cosine", "constant", "constant_with_warmup"};

}  // namespace

std::string_view SchedulerName(SchedulerType type) { return kNames[static_cast<size_t>(type)]; }

Result<SchedulerType> ParseScheduler(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return static_cast<SchedulerType>(i);
  }
  return InvalidArgument(
      "lr_scheduler_type '{}' is not known; use linear, cosine, constant or constant_with_warmup",
      name);
}

Status CheckSchedule(const ScheduleConfig& config) {
  if (!std::isfinite(config.learning_rate) || config.learning_rate < 0) {
    return InvalidArgument("learning_rate {} must be a finite number, 0 or above",
                           config.learning_rate);
  }
  if (config.total_steps < 1) {
    return InvalidArgument("the run has {} steps; at least 1 is needed", config.total_steps);
  }
  if (config.warmup_steps < 0 || config.warmup_steps > config.total_steps) {
    return InvalidArgument("warmup_steps {} must be between 0 and the run's {} steps",
                           config.warmup_steps, config.total_steps);
  }
  return OkStatus();
}

double LearningRate(const ScheduleConfig& config, int64_t step) {
  const double peak = config.learning_rate;
  if (config.type == SchedulerType::kConstant) return peak;
  const int64_t warmup = config.warmup_steps;
  if (step < warmup) {
    return peak * (static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, warmup)));
  }
  if (config.type == SchedulerType::kConstantWithWarmup) return peak;
  const int64_t rest = std::max<int64_t>(1, config.total_steps - warmup);
  const int64_t at = std::min(step, config.total_steps);
  if (config.type == SchedulerType::kLinear) {
    const double left = static_cast<double>(config.total_steps - at) / static_cast<double>(rest);
    return peak * std::max(0.0, left);
  }
  const double progress = static_cast<double>(at - warmup) / static_cast<double>(rest);
  return peak * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

int64_t WarmupSteps(int64_t warmup_steps, double warmup_ratio, int64_t total_steps) {
  if (warmup_steps > 0) return warmup_steps;
  return static_cast<int64_t>(std::ceil(static_cast<double>(total_steps) * warmup_ratio));
}

}  // namespace tidegate::train
