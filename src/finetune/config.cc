#include "finetune/config.h"

#include <sched.h>

#include <algorithm>
#include <cmath>

namespace tidegate::finetune {
namespace {

// NaN is outside of every range.
Status InRange(const char* option, double value, double least, double most) {
  if (value >= least && value <= most) return OkStatus();
  return InvalidArgument("--{} {} must be between {} and {}", option, value, least, most);
}

constexpr double kMany = 1e12;

Status CheckEvaluation(const FinetuneConfig& config) {
  const bool has_eval = !config.eval_data.empty() || config.eval_split > 0;
  if (!config.eval_data.empty() && config.eval_split > 0) {
    return InvalidArgument("--eval_data and --eval_split exclude each other; give one of them");
  }
  if (config.eval_steps > 0 && !has_eval) {
    return InvalidArgument("--eval_steps needs --eval_data or --eval_split");
  }
  if (config.load_best_model_at_end && config.eval_steps == 0) {
    return InvalidArgument("--load_best_model_at_end needs --eval_steps");
  }
  if (config.early_stopping_patience > 0 && config.eval_steps == 0) {
    return InvalidArgument(
        "--early_stopping_patience needs --eval_steps, and --eval_data or --eval_split");
  }
  if (config.early_stopping_threshold > 0 && config.early_stopping_patience == 0) {
    return InvalidArgument("--early_stopping_threshold needs --early_stopping_patience");
  }
  return OkStatus();
}

Status CheckReport(const std::string& report_to) {
  if (report_to == "none" || report_to == "tensorboard") return OkStatus();
  return Unsupported(
      "--report_to {}: give none or tensorboard; the process that reads records has no network",
      report_to);
}

}  // namespace

Status CheckDevice(const std::string& device) {
  if (device == "cpu" || device == "cuda") return OkStatus();
  return InvalidArgument("--device {} is not known; give cpu or cuda", device);
}

Status CheckConfig(const FinetuneConfig& config) {
  TG_RETURN_IF_ERROR(CheckDevice(config.device));
  const struct {
    const char* name;
    double value, least, most;
  } ranges[] = {
      {"eval_split", config.eval_split, 0, 0.9},
      {"threads", static_cast<double>(config.threads), 0, kMaxThreads},
      {"lora_r", static_cast<double>(config.lora_r), 1, model::kMaxLoraRank},
      {"max_length", static_cast<double>(config.max_length), 2, 1 << 20},
      {"per_device_train_batch_size", static_cast<double>(config.per_device_train_batch_size), 1,
       kMaxRowsABatch},
      {"gradient_accumulation_steps", static_cast<double>(config.gradient_accumulation_steps), 1,
       1 << 20},
      {"learning_rate", config.learning_rate, 0, 100},
      {"warmup_ratio", config.warmup_ratio, 0, 1},
      {"warmup_steps", static_cast<double>(config.warmup_steps), 0, kMany},
      {"max_steps", static_cast<double>(config.max_steps), 0, kMany},
      {"num_train_epochs", config.num_train_epochs, 1e-6, 1e6},
      {"logging_steps", static_cast<double>(config.logging_steps), 1, kMany},
      {"save_steps", static_cast<double>(config.save_steps), 0, kMany},
      {"eval_steps", static_cast<double>(config.eval_steps), 0, kMany},
      {"early_stopping_patience", static_cast<double>(config.early_stopping_patience), 0, kMany},
      {"early_stopping_threshold", config.early_stopping_threshold, 0, 1e6},
  };
  for (const auto& range : ranges) {
    TG_RETURN_IF_ERROR(InRange(range.name, range.value, range.least, range.most));
  }
  TG_RETURN_IF_ERROR(CheckEvaluation(config));
  TG_RETURN_IF_ERROR(CheckReport(config.report_to));
  const auto lora = LoraOf(config);
  if (!lora) return lora.error();
  const auto loop = LoopOf(config, 1);
  return loop ? OkStatus() : loop.error();
}

Result<model::LoraConfig> LoraOf(const FinetuneConfig& config) {
  if (config.use_dora) {
    return Unsupported(
        "--use_dora: DoRA is not built; train without it, or with --use_rslora, which costs "
        "nothing");
  }
  model::LoraConfig lora;
  lora.rslora = config.use_rslora;
  lora.r = config.lora_r;
  lora.alpha = config.lora_alpha;
  lora.dropout = config.lora_dropout;
  TG_ASSIGN_OR_RETURN(lora.targets, model::ParseTargets(config.lora_target_modules));
  auto layers = model::ParseLayers(config.layers_to_transform);
  if (!layers) return Unexpected(layers.error().WithContext("--layers_to_transform"));
  lora.layers = std::move(*layers);
  if (!config.rank_pattern.empty()) {
    TG_ASSIGN_OR_RETURN(lora.rank_pattern,
                        model::ParseRankPattern(config.rank_pattern, "--rank_pattern"));
  }
  if (!config.alpha_pattern.empty()) {
    TG_ASSIGN_OR_RETURN(lora.alpha_pattern,
                        model::ParseAlphaPattern(config.alpha_pattern, "--alpha_pattern"));
  }
  TG_RETURN_IF_ERROR(model::CheckLora(lora));
  return lora;
}

Result<train::LoopConfig> LoopOf(const FinetuneConfig& config, uint64_t windows_per_epoch) {
  train::LoopConfig loop;
  train::ScheduleConfig& schedule = loop.schedule;
  TG_ASSIGN_OR_RETURN(schedule.type, train::ParseScheduler(config.lr_scheduler_type));
  schedule.learning_rate = config.learning_rate;
  schedule.total_steps = config.max_steps;
  if (config.max_steps == 0) {
    const double steps = config.num_train_epochs * static_cast<double>(windows_per_epoch);
    if (steps > kMany) return InvalidArgument("the run has {} steps, the limit is 1e12", steps);
    schedule.total_steps = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(steps)));
  }
  schedule.warmup_steps =
      std::min(schedule.total_steps,
               train::WarmupSteps(config.warmup_steps, config.warmup_ratio, schedule.total_steps));
  loop.adamw.weight_decay = config.weight_decay;
  loop.adamw.max_grad_norm = config.max_grad_norm;
  loop.gradient_accumulation_steps = config.gradient_accumulation_steps;
  TG_RETURN_IF_ERROR(train::CheckSchedule(schedule));
  TG_RETURN_IF_ERROR(train::CheckAdamW(loop.adamw));
  return loop;
}

int ThreadsOf(int asked) {
  if (asked > 0) return std::min(asked, kMaxThreads);
  cpu_set_t mask;
  if (::sched_getaffinity(0, sizeof(mask), &mask) != 0) return 1;
  return std::clamp(CPU_COUNT(&mask), 1, kMaxThreads);
}

}  // namespace tidegate::finetune
