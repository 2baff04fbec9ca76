// What one run of tidegate-pretrain is asked for, named as transformers' TrainingArguments names
// it. Thread-safety: values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/status.h"
#include "model/transformer.h"
#include "pretrain/trainer.h"

namespace tidegate::pretrain {

struct PretrainConfig {
  // A model from scratch (a config.json), or an HF folder to go on from: one of them.
  std::filesystem::path model_config, base;
  std::filesystem::path tokenizer;        // folder whose tokenizer goes with the base
  std::filesystem::path data, eval_data;  // token shards
  std::filesystem::path output_dir;
  bool resume = false;

  std::string dtype = "auto";
  std::string device = "cpu";
  int threads = 0;  // a rank; 0: the CPUs of this process over the ranks on this machine
  bool gradient_checkpointing = false;
  // "ordered": the same bits for any number of ranks; "fast": no buffers for that.
  std::string reduction = "ordered";
  int64_t bucket_elements = 4 << 20;  // of gradients that travel together

  int64_t max_length = 1024;
  int64_t per_device_train_batch_size = 8;
  int64_t global_batch_size = 0;  // 0: one micro-batch a rank
  int64_t max_steps = -1;         // -1: num_train_epochs
  double num_train_epochs = 1;
  double learning_rate = 3e-4;
  std::string lr_scheduler_type = "cosine_with_min_lr";
  int64_t warmup_steps = 0;  // 0: warmup_ratio
  double warmup_ratio = 0.01;
  double min_lr_ratio = 0.1;
  int64_t num_decay_steps = 0;  // of warmup_stable_decay; 0: a tenth of the steps
  double weight_decay = 0.1;    // of matrices
  double adam_beta1 = 0.9, adam_beta2 = 0.95, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;
  uint64_t seed = 42;

  int64_t logging_steps = 10;
  int64_t eval_steps = 0;        // 0: at the end only
  int64_t eval_sequences = 256;  // the first ones of --eval_data
  int64_t save_steps = 500;
  int64_t save_total_limit = 2;
  std::string save_dtype = "bf16";  // of the base that is written at the end
  double peak_tflops = 0;           // of one rank's device, for MFU; 0: not shown
};

// Names the option that is out of range, missing or too much.
Status CheckConfig(const PretrainConfig& config);

// What follows from the options and the data: `samples` sequences an epoch.
Result<StepConfig> StepsOf(const PretrainConfig& config, int ranks, uint64_t samples);

Result<model::ModelConfig> ModelOf(const PretrainConfig& config);

// Floating-point operations that a token costs forward and backward: 6 a parameter that is
// multiplied, and the attention's (PaLM, appendix B).
double FlopsPerToken(const model::ModelConfig& model, int64_t length);

// What a resumed run must share with the one it goes on from: any number of ranks, threads and
// passes may, as they leave the bits as they are.
train::Identity IdentityOf(const PretrainConfig& config, const StepConfig& steps,
                           const model::ModelConfig& model, kernels::DType dtype,
                           const SampleSource& source);

}  // namespace tidegate::pretrain
