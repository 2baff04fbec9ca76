#include "pretrain/options.h"

#include <algorithm>

namespace tidegate::pretrain {
namespace {

std::string Flag(const std::string& name) {
  std::string dashed = name;
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  return dashed == name ? "--" + name : "--" + name + ",--" + dashed;
}

template <typename T>
CLI::Option* Add(CLI::App& app, const std::string& name, T& value, const std::string& help) {
  // The last one counts, so that what a script adds at the end does.
  return app.add_option(Flag(name), value, help)
      ->capture_default_str()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

void AddFiles(CLI::App& app, PretrainConfig& c) {
  Add(app, "model_config", c.model_config, "config.json of a model to train from scratch");
  Add(app, "base", c.base, "HF folder of a model to go on from")->check(CLI::ExistingDirectory);
  Add(app, "tokenizer", c.tokenizer,
      "Folder whose tokenizer goes with the base that is written; default: --base");
  Add(app, "data", c.data, "Folder of token shards (tidegate tokenizer encode)")->required();
  Add(app, "eval_data", c.eval_data, "Folder of held-out token shards");
  Add(app, "output_dir", c.output_dir, "Where checkpoints, metrics and base/ go")->required();
  app.add_flag("--resume", c.resume, "Go on from the newest checkpoint, if there is one");
}

void AddMachine(CLI::App& app, CommandLine& line) {
  PretrainConfig& c = line.config;
  Add(app, "nproc", line.nproc,
      "Start this many ranks with mpirun, and start them again when one is lost");
  Add(app, "max_restarts", line.max_restarts,
      "With --nproc: starts after a loss without a new checkpoint in between");
  Add(app, "deadline", line.deadline_seconds, "Seconds that a rank waits for the others");
  Add(app, "device", c.device, "cpu or cuda");
  Add(app, "dtype", c.dtype, "auto, bf16 or f32; masters and moments are f32");
  Add(app, "threads", c.threads, "A rank's; 0: an equal share of this machine's CPUs");
  app.add_flag(Flag("gradient_checkpointing"), c.gradient_checkpointing,
               "Compute each layer again on the way back: less memory, a third more time");
  Add(app, "reduction", c.reduction,
      "ordered: the same bits for any number of ranks; fast: less memory");
  Add(app, "bucket_elements", c.bucket_elements, "Gradients that travel together");
  Add(app, "peak_tflops", c.peak_tflops, "Of one rank's device, to show MFU; 0: not shown");
  Add(app, "format", line.format, "text or json")->check(CLI::IsMember({"text", "json"}));
}

void AddTraining(CLI::App& app, PretrainConfig& c) {
  Add(app, "max_length", c.max_length, "Tokens of a sequence");
  Add(app, "per_device_train_batch_size", c.per_device_train_batch_size, "Sequences of a pass");
  Add(app, "global_batch_size", c.global_batch_size,
      "Sequences of a step over all ranks; 0: one pass a rank");
  Add(app, "max_steps", c.max_steps, "-1: as num_train_epochs says");
  Add(app, "num_train_epochs", c.num_train_epochs, "Passes over the data");
  Add(app, "learning_rate", c.learning_rate, "The peak");
  Add(app, "lr_scheduler_type", c.lr_scheduler_type,
      "cosine_with_min_lr, warmup_stable_decay, cosine, linear, constant or "
      "constant_with_warmup");
  Add(app, "warmup_steps", c.warmup_steps, "0: as warmup_ratio says");
  Add(app, "warmup_ratio", c.warmup_ratio, "Of all steps");
  Add(app, "min_lr_ratio", c.min_lr_ratio, "Where the first two schedules end");
  Add(app, "num_decay_steps", c.num_decay_steps, "Of warmup_stable_decay; 0: a tenth of all");
  Add(app, "weight_decay", c.weight_decay, "Of matrices");
  Add(app, "adam_beta1", c.adam_beta1, "");
  Add(app, "adam_beta2", c.adam_beta2, "");
  Add(app, "adam_epsilon", c.adam_epsilon, "");
  Add(app, "max_grad_norm", c.max_grad_norm, "Global L2; 0: no clipping");
  Add(app, "seed", c.seed, "Of the initial weights and the data's order");
}

void AddLogging(CLI::App& app, PretrainConfig& c) {
  Add(app, "logging_steps", c.logging_steps, "Between lines where there is no terminal");
  Add(app, "eval_steps", c.eval_steps, "0: at the end only");
  Add(app, "eval_sequences", c.eval_sequences, "The first ones of --eval_data");
  Add(app, "save_steps", c.save_steps, "0: at the end only");
  Add(app, "save_total_limit", c.save_total_limit, "Checkpoints that are kept");
  Add(app, "save_dtype", c.save_dtype, "bf16 or f32, of the base that is written at the end");
}

}  // namespace

void AddOptions(CLI::App& app, CommandLine* line) {
  AddFiles(app, line->config);
  AddMachine(app, *line);
  AddTraining(app, line->config);
  AddLogging(app, line->config);
}

}  // namespace tidegate::pretrain
