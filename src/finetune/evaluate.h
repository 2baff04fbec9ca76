// The verbs eval and data-check: a base, with or without an adapter, measured on records; and what
// training would make of records. Not thread-safe.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "finetune/dataset.h"
#include "finetune/exact_match.h"
#include "finetune/loaded_base.h"
#include "train/loop.h"

namespace tidegate::finetune {

struct EvalConfig {
  std::filesystem::path base, data;
  std::filesystem::path adapter;  // empty: the base alone
  std::string device = "cpu";     // "cpu", "cuda"
  std::string dtype = "auto";
  HeldWeights held;
  int threads = 0;
  int64_t max_length = 1024;
  int64_t per_device_eval_batch_size = 1;  // rows of up to max_length tokens
  bool assistant_only_loss = true;
  bool exact_match = false;
  int64_t max_new_tokens = 64;
};

Status CheckEvalConfig(const EvalConfig& config);

struct EvalSummary {
  train::EvalResult loss;
  DataReport report;
  std::optional<ExactMatch> exact_match;
};

Result<EvalSummary> RunEval(const EvalConfig& config, const std::function<bool()>& should_stop);

// An engine with the adapter of a PEFT folder in it, or with none when `adapter` is empty.
Result<std::unique_ptr<model::Engine>> MakeEngine(const LoadedBase& base,
                                                  const std::filesystem::path& adapter);

}  // namespace tidegate::finetune
