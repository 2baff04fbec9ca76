// The flags of finetune, named as TRL and PEFT name them, and its --config file of the same names.
#pragma once

#include <CLI/CLI.hpp>

#include "finetune/config.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {

// `config` and `invocation` must outlive the parsing. What is wrong with a --config file is in
// invocation.refused.
void AddFinetuneOptions(CLI::App& verb, finetune::FinetuneConfig& config, Invocation& invocation);

// The verb's `usage` (AddVerb): flags of a new adapter beside --adapter, which has its own.
void CheckFinetuneUsage(const CLI::App& verb, const finetune::FinetuneConfig& config);

}  // namespace tidegate::trainer
