#include "onshore/trainer/job_config.h"

#include "base/bytes.h"
#include "federation/shared/layout.h"
#include "model/adapter.h"
#include "protocols/strategy.h"

namespace tidegate::trainer {
namespace {

constexpr const char* kModuleNames[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                        "gate_proj", "up_proj", "down_proj"};

std::string TargetNames(uint8_t bits) {
  std::string names;
  for (int i = 0; i < 7; ++i) {
    if ((bits >> i & 1) == 0) continue;
    if (!names.empty()) names += ',';
    names += kModuleNames[i];
  }
  return names;
}

std::string SchedulerName(protocols::Scheduler scheduler) {
  switch (scheduler) {
    case protocols::Scheduler::kConstant:
      return "constant_with_warmup";
    case protocols::Scheduler::kLinear:
      return "linear";
    case protocols::Scheduler::kCosine:
      return "cosine";
  }
  return "linear";
}

}  // namespace

std::filesystem::path TrainerDir(const SiteOptions& options) { return options.site / "trainer"; }

std::filesystem::path JobDir(const SiteOptions& options, const protocols::Id16& job) {
  return TrainerDir(options) / ToHex(job);
}

Result<finetune::FinetuneConfig> ConfigOf(const protocols::JobManifest& job,
                                          const protocols::Id16& id, const SiteOptions& options) {
  if (job.phase_groups.items != protocols::PhasesOf(job.strategy)) {
    return InvalidArgument("the job's phases are not those of its strategy {}",
                           static_cast<int>(job.strategy));
  }
  finetune::FinetuneConfig config;
  config.base = options.base;
  config.data = options.records;
  config.eval_data = options.heldout;
  config.output_dir = JobDir(options, id);
  config.device = options.device;
  config.dtype = options.dtype;
  config.threads = options.threads;
  // One adapter of both, with the shared one's scale (adapter_view.h).
  config.lora_r = int64_t{job.lora_r} + job.local_lora_r;
  config.lora_alpha = job.local_lora_r == 0
                          ? job.lora_alpha
                          : job.lora_alpha / job.lora_r * static_cast<double>(config.lora_r);
  config.held.load_in_8bit = job.held_base == protocols::HeldBase::kInt8;
  config.held.load_in_4bit = job.held_base == protocols::HeldBase::kNf4;
  config.lora_dropout = job.lora_dropout;
  config.lora_target_modules = TargetNames(job.lora_targets);
  config.max_length = job.max_length;
  config.packing = job.packing;
  config.assistant_only_loss = job.assistant_only_loss;
  config.per_device_train_batch_size = job.batch_size;
  config.gradient_accumulation_steps = static_cast<int>(job.gradient_accumulation_steps);
  config.learning_rate = job.learning_rate;
  config.lr_scheduler_type = SchedulerName(job.scheduler);
  config.warmup_ratio = 0;
  config.warmup_steps = job.warmup_steps;
  config.weight_decay = job.weight_decay;
  config.max_grad_norm = job.max_grad_norm;
  config.max_steps = static_cast<int64_t>(job.rounds) * job.local_steps;
  config.seed = job.seed;
  TG_RETURN_IF_ERROR(finetune::CheckConfig(config));
  return config;
}

Status CheckJobFits(const protocols::JobManifest& job, const protocols::Id16& id,
                    const SiteOptions& options, const model::ModelConfig& base) {
  // The site's own part is looked at when it is used.
  SiteOptions any = options;
  any.device = "cpu";
  any.threads = 1;
  TG_ASSIGN_OR_RETURN(const finetune::FinetuneConfig config, ConfigOf(job, id, any));
  if (config.max_length > base.max_positions) {
    return InvalidArgument("the job's max_length {} is beyond the {} positions of the base",
                           config.max_length, base.max_positions);
  }
  TG_ASSIGN_OR_RETURN(model::LoraConfig shared, finetune::LoraOf(config));
  TG_RETURN_IF_ERROR(model::CheckLoraFits(shared, base));
  shared.r = job.lora_r;
  shared.alpha = job.lora_alpha;
  TG_RETURN_IF_ERROR(model::CheckLora(shared));
  TG_ASSIGN_OR_RETURN(const protocols::Layout layout,
                      federation::LayoutOf(model::Adapter::CreateZero(base, shared)));
  if (layout == job.layout) return OkStatus();
  return FailedPrecondition("the job's layout is not that of the base in {} and its LoRA shape",
                            options.base.native());
}

}  // namespace tidegate::trainer
