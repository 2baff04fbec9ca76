// What a site's training run is asked to do. Names are those of TRL's SFTConfig and PEFT's
// LoraConfig where they have one; defaults are for LoRA on one machine and are argued where they
// differ. Values; not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/status.h"
#include "finetune/loaded_base.h"
#include "model/adapter.h"
#include "train/loop.h"

namespace tidegate::finetune {

struct FinetuneConfig {
  std::filesystem::path base;        // HF folder
  std::filesystem::path data;        // JSONL
  std::filesystem::path eval_data;   // JSONL; empty: eval_split
  double eval_split = 0;             // share of `data` held out, 0 for none
  std::filesystem::path adapter;     // PEFT folder to start from; empty: a new adapter
  std::filesystem::path output_dir;  // PEFT folder, metrics.jsonl and state/ go here
  std::string base_name;             // base_model_name_or_path of the adapter; empty: `base`

  std::string device = "cpu";  // "cpu", "cuda"
  std::string dtype = "auto";  // "auto", "bf16", "f32"
  HeldWeights held;
  bool gradient_checkpointing = false;  // a third more time for a fraction of the activations
  int threads = 0;                      // 0: as many as this process may use

  int64_t lora_r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0.0;
  std::string lora_target_modules = "all-linear";
  std::string layers_to_transform;  // "0,1,5"; empty: all layers
  // JSON objects as adapter_config.json has them: {"q_proj": 8}; empty: none.
  std::string rank_pattern, alpha_pattern;
  bool use_rslora = false;  // scale alpha / sqrt(r)
  bool use_dora = false;    // refused: not built

  int64_t max_length = 1024;  // tokens; longer examples are cut
  // Packing is on: the largest single gain on short examples, and it does not change the loss.
  bool packing = true;
  bool assistant_only_loss = true;

  // Rows of up to max_length tokens when packing, examples otherwise.
  int64_t per_device_train_batch_size = 1;
  int gradient_accumulation_steps = 8;
  double learning_rate = 2e-4;
  std::string lr_scheduler_type = "cosine";
  double warmup_ratio = 0.03;
  int64_t warmup_steps = 0;  // above 0: wins over warmup_ratio
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;
  int64_t max_steps = 0;  // above 0: wins over num_train_epochs
  double num_train_epochs = 3;
  uint64_t seed = 42;

  int64_t logging_steps = 10;
  int64_t save_steps = 100;  // 0: only at the end and when stopped
  int64_t eval_steps = 0;    // 0: only at the end
  bool load_best_model_at_end = false;
  // Above 0: ends the run when so many evaluations in a row were no improvement of the held-out
  // loss by more than the threshold.
  int64_t early_stopping_patience = 0;
  double early_stopping_threshold = 0;
  std::string report_to = "none";  // "none", "tensorboard"
  bool resume = false;
};

// Refuses what is out of range, naming the option, its value and what is allowed. Looks at no file.
Status CheckConfig(const FinetuneConfig& config);

// Whether that is a device's name; whether it is there is found when it is used.
Status CheckDevice(const std::string& device);

Result<model::LoraConfig> LoraOf(const FinetuneConfig& config);

// Steps, warm-up and optimizer of a run with `windows_per_epoch` optimizer steps an epoch.
Result<train::LoopConfig> LoopOf(const FinetuneConfig& config, uint64_t windows_per_epoch);

// Of per_device_train_batch_size and per_device_eval_batch_size.
inline constexpr int64_t kMaxRowsABatch = 4096;

// The threads to use: config.threads, or the CPUs of this process' affinity. At most kMaxThreads.
inline constexpr int kMaxThreads = 256;
int ThreadsOf(int asked);

}  // namespace tidegate::finetune
