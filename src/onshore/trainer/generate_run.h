// The three ways of `generate`, behind the walls. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "model/generate.h"
#include "onshore/trainer/prompts.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {

struct GenerateConfig {
  std::filesystem::path base, adapter;
  std::string device = "cpu", dtype = "auto";
  finetune::HeldWeights held;
  int threads = 0;
  std::string prompt;
  std::filesystem::path prompts;
  bool interactive = false;
  PromptStyle style;
  int64_t batch_size = 8;
  model::GenerateOptions options = {.top_k = 50};
  uint64_t free_bytes = 0;      // when the verb began, before the base was loaded
  bool input_terminal = false;  // standard input is a terminal
};

struct Generator {
  const Invocation& invocation;
  const GenerateConfig& config;
  const finetune::LoadedBase& base;
  model::Engine& engine;
  model::GenerateOptions options;  // with the base's stop ids and vocabulary

  // Whether the caches of `sequences` answers after prompts of up to `prompt` tokens fit.
  Status CheckMemory(int64_t sequences, size_t prompt) const;
};

std::string ReasonName(model::StopReason reason);

// Every prompt of the file, in order; or the one of --prompt. Text as it comes, a line of JSON an
// answer.
Status RunPrompts(Generator& generator, const std::vector<Prompt>& prompts);

// A conversation: a line of standard input at a time, until its end or /quit. kCancelled when a
// signal other than an interrupt ended it.
Status RunChat(Generator& generator);

}  // namespace tidegate::trainer
