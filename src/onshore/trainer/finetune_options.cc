#include "onshore/trainer/finetune_options.h"

#include "onshore/trainer/flags_file.h"

namespace tidegate::trainer {
namespace {

using finetune::FinetuneConfig;

const FlagsFileRules kFileRules = {
    .paths = {"base", "data", "eval_data", "adapter", "output_dir"},
    .lists = {"lora_target_modules", "layers_to_transform"},
    .tables = {"rank_pattern", "alpha_pattern"},
    // What stands around the run is said by who starts it, not by a file that came from elsewhere.
    .excluded = {"config", "format", "walls", "site", "uid", "flags_fd"},
};

// First of all, so that the flags after it find the file's values when their turn comes.
void AddConfigOption(CLI::App& verb, Invocation& invocation) {
  verb.add_option_function<std::string>(
      "--config",
      [&verb, &invocation](const std::string& path) {
        invocation.verb = verb.get_name();
        invocation.refused = ApplyFlagsFile(verb, path, kFileRules);
      },
      "TOML file of these flags; the command line wins");
}

void AddFileOptions(CLI::App& verb, FinetuneConfig& c) {
  verb.add_option(Flag("base"), c.base, "HF folder of the base model")->required();
  verb.add_option(Flag("data"), c.data, "Records, JSONL")->required();
  verb.add_option(Flag("eval_data"), c.eval_data, "Held-out records, JSONL");
  verb.add_option(Flag("eval_split"), c.eval_split, "Share of --data to hold out");
  verb.add_option(Flag("adapter"), c.adapter, "PEFT folder to start from");
  verb.add_option(Flag("output_dir") + ",--out", c.output_dir,
                  "Where adapter, metrics and state go")
      ->required();
  verb.add_option(Flag("base_model_name_or_path"), c.base_name,
                  "Name of the base that the adapter's files carry; default: --base");
}

void AddModelOptions(CLI::App& verb, FinetuneConfig& c) {
  AddDevice(verb, c.device);
  verb.add_option(Flag("dtype"), c.dtype, "auto, bf16 or f32")->capture_default_str();
  AddHeldWeights(verb, c.held);
  AddSwitch(verb, "gradient_checkpointing", c.gradient_checkpointing,
            "Compute each layer again on the way back: less memory, a third more time");
  verb.add_option(Flag("threads"), c.threads, "0: all CPUs of this process")->capture_default_str();
  verb.add_option(Flag("lora_r"), c.lora_r, "Rank")->capture_default_str();
  verb.add_option(Flag("lora_alpha"), c.lora_alpha, "Scale is alpha / r")->capture_default_str();
  verb.add_option(Flag("lora_dropout"), c.lora_dropout, "On the adapter's input")
      ->capture_default_str();
  verb.add_option(Flag("lora_target_modules"), c.lora_target_modules,
                  "all-linear, or names: q_proj,v_proj")
      ->capture_default_str();
  verb.add_option(Flag("layers_to_transform"), c.layers_to_transform,
                  "Layers to adapt, from 0: 0,1,5; default: all");
  verb.add_option(Flag("rank_pattern"), c.rank_pattern,
                  "Ranks of modules, by PEFT's patterns: '{\"v_proj\": 32}'");
  verb.add_option(Flag("alpha_pattern"), c.alpha_pattern,
                  "Alphas of modules: '{\"layers.0.*q_proj\": 64}'");
  AddSwitch(verb, "use_rslora", c.use_rslora, "Scale is alpha / sqrt(r)");
  AddSwitch(verb, "use_dora", c.use_dora, "Refused: DoRA is not built");
  verb.add_option(Flag("max_length"), c.max_length, "Tokens; longer examples are cut")
      ->capture_default_str();
  AddSwitch(verb, "packing", c.packing, "Several examples a row, without changing the loss");
  AddSwitch(verb, "assistant_only_loss", c.assistant_only_loss,
            "Of chats train the assistant's turns alone; false: every token, TRL's default");
}

void AddTrainingOptions(CLI::App& verb, FinetuneConfig& c) {
  verb.add_option(Flag("per_device_train_batch_size"), c.per_device_train_batch_size,
                  "Rows a micro-batch")
      ->capture_default_str();
  verb.add_option(Flag("gradient_accumulation_steps"), c.gradient_accumulation_steps,
                  "Micro-batches a step")
      ->capture_default_str();
  verb.add_option(Flag("learning_rate"), c.learning_rate, "Peak")->capture_default_str();
  verb.add_option(Flag("lr_scheduler_type"), c.lr_scheduler_type,
                  "cosine, linear, constant or constant_with_warmup")
      ->capture_default_str();
  verb.add_option(Flag("warmup_ratio"), c.warmup_ratio, "Share of the steps")
      ->capture_default_str();
  verb.add_option(Flag("warmup_steps"), c.warmup_steps, "Above 0: instead of the ratio")
      ->capture_default_str();
  verb.add_option(Flag("weight_decay"), c.weight_decay, "Of AdamW")->capture_default_str();
  verb.add_option(Flag("max_grad_norm"), c.max_grad_norm, "0: no clipping")->capture_default_str();
  verb.add_option(Flag("max_steps"), c.max_steps, "Above 0: instead of the epochs")
      ->capture_default_str();
  verb.add_option(Flag("num_train_epochs"), c.num_train_epochs, "May be a fraction")
      ->capture_default_str();
  AddSeed(verb, c.seed, "Of adapter, order and dropout");
  verb.add_option(Flag("logging_steps"), c.logging_steps, "A progress line each so many steps")
      ->capture_default_str();
  verb.add_option(Flag("save_steps"), c.save_steps, "0: only at the end")->capture_default_str();
  verb.add_option(Flag("eval_steps"), c.eval_steps, "0: only at the end")->capture_default_str();
  AddSwitch(verb, "load_best_model_at_end", c.load_best_model_at_end,
            "Write the adapter of the best evaluation");
  verb.add_option(Flag("early_stopping_patience"), c.early_stopping_patience,
                  "End after so many evaluations without improvement; 0: never")
      ->capture_default_str();
  verb.add_option(Flag("early_stopping_threshold"), c.early_stopping_threshold,
                  "An improvement is a held-out NLL lower by more than this")
      ->capture_default_str();
  verb.add_option(Flag("report_to"), c.report_to, "none, or tensorboard: event files in OUT/runs")
      ->capture_default_str();
  AddSwitch(verb, "resume", c.resume, "Go on from the state in --output_dir");
}

}  // namespace

void AddFinetuneOptions(CLI::App& verb, FinetuneConfig& config, Invocation& invocation) {
  AddSupervisedFlags(verb, invocation, kFileRules);
  AddConfigOption(verb, invocation);
  AddFileOptions(verb, config);
  AddModelOptions(verb, config);
  AddTrainingOptions(verb, config);
}

void CheckFinetuneUsage(const CLI::App& verb, const FinetuneConfig& config) {
  CheckHeldWeights(verb, config.held);
  if (config.adapter.empty()) return;
  RefuseGiven(verb,
              {"lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "layers_to_transform",
               "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"},
              "is for a new adapter: that of --adapter keeps what its adapter_config.json says; "
              "leave one of the two out");
}

}  // namespace tidegate::trainer
