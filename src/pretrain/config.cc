#include "pretrain/config.h"

#include <algorithm>
#include <cmath>

#include "crypto/hash.h"

namespace tidegate::pretrain {
namespace {

Status CheckCount(std::string_view name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return OkStatus();
  return InvalidArgument("{} is {}: choose {} to {}", name, value, least, most);
}

constexpr int64_t kMany = int64_t{1} << 40;

}  // namespace

Status CheckConfig(const PretrainConfig& c) {
  if (c.model_config.empty() == c.base.empty()) {
    return InvalidArgument(
        "give --model_config (a config.json, from scratch) or --base (an HF folder, to go on "
        "from)");
  }
  if (c.reduction != "ordered" && c.reduction != "fast") {
    return InvalidArgument("reduction '{}' is not known; use ordered or fast", c.reduction);
  }
  if (c.save_dtype != "bf16" && c.save_dtype != "f32") {
    return InvalidArgument("save_dtype '{}' is not known; use bf16 or f32", c.save_dtype);
  }
  if (!std::isfinite(c.num_train_epochs) || c.num_train_epochs <= 0) {
    return InvalidArgument("num_train_epochs {} must be above 0", c.num_train_epochs);
  }
  if (!(c.warmup_ratio >= 0 && c.warmup_ratio <= 1)) {
    return InvalidArgument("warmup_ratio {} must be between 0 and 1", c.warmup_ratio);
  }
  if (!(c.peak_tflops >= 0) || !std::isfinite(c.peak_tflops)) {
    return InvalidArgument("peak_tflops {} must be 0 or above", c.peak_tflops);
  }
  TG_RETURN_IF_ERROR(CheckCount("threads", c.threads, 0, 1024));
  TG_RETURN_IF_ERROR(CheckCount("max_length", c.max_length, 1, 1 << 20));
  TG_RETURN_IF_ERROR(
      CheckCount("per_device_train_batch_size", c.per_device_train_batch_size, 1, 1 << 16));
  TG_RETURN_IF_ERROR(CheckCount("global_batch_size", c.global_batch_size, 0, 1 << 24));
  TG_RETURN_IF_ERROR(CheckCount("max_steps", c.max_steps, -1, kMany));
  TG_RETURN_IF_ERROR(CheckCount("num_decay_steps", c.num_decay_steps, 0, kMany));
  TG_RETURN_IF_ERROR(CheckCount("logging_steps", c.logging_steps, 1, kMany));
  TG_RETURN_IF_ERROR(CheckCount("eval_steps", c.eval_steps, 0, kMany));
  TG_RETURN_IF_ERROR(CheckCount("eval_sequences", c.eval_sequences, 1, kMany));
  TG_RETURN_IF_ERROR(CheckCount("save_steps", c.save_steps, 0, kMany));
  TG_RETURN_IF_ERROR(CheckCount("bucket_elements", c.bucket_elements, 1, int64_t{1} << 32));
  return CheckCount("save_total_limit", c.save_total_limit, 1, 1000);
}

Result<StepConfig> StepsOf(const PretrainConfig& c, int ranks, uint64_t samples) {
  StepConfig out;
  out.micro_batch_size = c.per_device_train_batch_size;
  out.global_batch_size =
      c.global_batch_size > 0 ? c.global_batch_size : c.per_device_train_batch_size * ranks;
  out.ordered = c.reduction == "ordered";
  out.adamw = {.beta1 = c.adam_beta1,
               .beta2 = c.adam_beta2,
               .eps = c.adam_epsilon,
               .weight_decay = c.weight_decay,
               .max_grad_norm = c.max_grad_norm};
  train::ScheduleConfig& schedule = out.schedule;
  TG_ASSIGN_OR_RETURN(schedule.type, train::ParseScheduler(c.lr_scheduler_type));
  const double epoch = static_cast<double>(samples) /
                       static_cast<double>(std::max<int64_t>(1, out.global_batch_size));
  schedule.total_steps =
      c.max_steps >= 0 ? c.max_steps : static_cast<int64_t>(std::floor(epoch * c.num_train_epochs));
  if (schedule.total_steps < 1) {
    return InvalidArgument(
        "the data has {} sequences of {} tokens, a step takes {}: use less global_batch_size, a "
        "shorter max_length or more epochs",
        samples, c.max_length, out.global_batch_size);
  }
  schedule.learning_rate = c.learning_rate;
  schedule.warmup_steps = train::WarmupSteps(c.warmup_steps, c.warmup_ratio, schedule.total_steps);
  schedule.min_lr_ratio = c.min_lr_ratio;
  schedule.decay_steps =
      c.num_decay_steps > 0 ? c.num_decay_steps : std::max<int64_t>(1, schedule.total_steps / 10);
  TG_RETURN_IF_ERROR(CheckStep(out, ranks));
  return out;
}

Result<model::ModelConfig> ModelOf(const PretrainConfig& config) {
  if (!config.base.empty()) return model::LoadHfConfig(config.base / "config.json");
  return model::LoadHfConfig(config.model_config);
}

double FlopsPerToken(const model::ModelConfig& model, int64_t length) {
  // A tied embedding is multiplied as the head; one that is not is only looked up.
  const int64_t looked_up = model.tied ? 0 : model.vocab_size * model.hidden_size;
  const auto multiplied = static_cast<double>(model.num_parameters() - looked_up);
  const auto attention = static_cast<double>(12 * model.num_layers * model.q_size() * length);
  return 6.0 * multiplied + attention;
}

train::Identity IdentityOf(const PretrainConfig& c, const StepConfig& steps,
                           const model::ModelConfig& model, kernels::DType dtype,
                           const SampleSource& source) {
  const std::string config = ToHfJson(model);
  const auto number = [](double value) { return fmt::format("{:a}", value); };
  train::Identity out;
  out["model"] = ToHex(crypto::Sha256::Of(AsBytes(config)));
  out["from"] = c.base.empty() ? "scratch" : "base";
  out["data"] = fmt::format("{:016x}", source.fingerprint());
  out["dtype"] = dtype == kernels::DType::kBF16 ? "bf16" : "f32";
  out["seed"] = std::to_string(c.seed);
  out["max_length"] = std::to_string(source.length());
  out["global_batch_size"] = std::to_string(steps.global_batch_size);
  out["learning_rate"] = number(steps.schedule.learning_rate);
  out["lr_scheduler_type"] = SchedulerName(steps.schedule.type);
  out["steps"] = std::to_string(steps.schedule.total_steps);
  out["warmup_steps"] = std::to_string(steps.schedule.warmup_steps);
  out["min_lr_ratio"] = number(steps.schedule.min_lr_ratio);
  if (steps.schedule.type == train::SchedulerType::kWarmupStableDecay) {
    out["num_decay_steps"] = std::to_string(steps.schedule.decay_steps);
  }
  out["adam_beta1"] = number(steps.adamw.beta1);
  out["adam_beta2"] = number(steps.adamw.beta2);
  out["adam_epsilon"] = number(steps.adamw.eps);
  out["weight_decay"] = number(steps.adamw.weight_decay);
  out["max_grad_norm"] = number(steps.adamw.max_grad_norm);
  return out;
}

}  // namespace tidegate::pretrain
