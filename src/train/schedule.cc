#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tidegate::train {
namespace {

constexpr std::string_view kNames[] = {"linear",
                                       "cosine",
                                       "constant",
                                       "constant_with_warmup",
                                       "cosine_with_min_lr",
                                       "warmup_stable_decay"};

double HalfCosine(double progress) { return 0.5 * (1.0 + std::cos(std::numbers::pi * progress)); }

// A factor of 1 … 0 as one of 1 … min_lr_ratio.
double Above(const ScheduleConfig& config, double factor) {
  return std::max(0.0, factor * (1.0 - config.min_lr_ratio) + config.min_lr_ratio);
}

// transformers' get_wsd_schedule: its warm-up begins at min_lr_ratio too.
double WarmupStableDecay(const ScheduleConfig& config, int64_t step) {
  const auto part = [](int64_t done, int64_t of) {
    return static_cast<double>(done) / static_cast<double>(std::max<int64_t>(1, of));
  };
  if (step < config.warmup_steps) return Above(config, part(step, config.warmup_steps));
  const int64_t decay_from = config.total_steps - config.decay_steps;
  if (step < decay_from) return 1;
  if (step >= config.total_steps) return config.min_lr_ratio;
  return Above(config, HalfCosine(part(step - decay_from, config.decay_steps)));
}

}  // namespace

std::string_view SchedulerName(SchedulerType type) { return kNames[static_cast<size_t>(type)]; }

Result<SchedulerType> ParseScheduler(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return static_cast<SchedulerType>(i);
  }
  return InvalidArgument(
      "lr_scheduler_type '{}' is not known; use linear, cosine, constant, constant_with_warmup, "
      "cosine_with_min_lr or warmup_stable_decay",
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
  if (!(config.min_lr_ratio >= 0 && config.min_lr_ratio <= 1)) {
    return InvalidArgument("min_lr_ratio {} must be between 0 and 1", config.min_lr_ratio);
  }
  if (config.type != SchedulerType::kWarmupStableDecay) return OkStatus();
  if (config.decay_steps < 1 || config.decay_steps > config.total_steps - config.warmup_steps) {
    return InvalidArgument(
        "warmup_stable_decay needs decay_steps of 1 to the run's {} after its warm-up, not {}",
        config.total_steps - config.warmup_steps, config.decay_steps);
  }
  return OkStatus();
}

double LearningRate(const ScheduleConfig& config, int64_t step) {
  const double peak = config.learning_rate;
  if (config.type == SchedulerType::kConstant) return peak;
  if (config.type == SchedulerType::kWarmupStableDecay) {
    return peak * WarmupStableDecay(config, step);
  }
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
  if (config.type == SchedulerType::kCosineWithMinLr) {
    return peak * Above(config, HalfCosine(progress));
  }
  return peak * std::max(0.0, HalfCosine(progress));
}

int64_t WarmupSteps(int64_t warmup_steps, double warmup_ratio, int64_t total_steps) {
  if (warmup_steps > 0) return warmup_steps;
  return static_cast<int64_t>(std::ceil(static_cast<double>(total_steps) * warmup_ratio));
}

}  // namespace tidegate::train
