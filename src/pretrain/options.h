// The command line of tidegate-pretrain. Not thread-safe.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "pretrain/config.h"

namespace tidegate::pretrain {

struct CommandLine {
  PretrainConfig config;
  int nproc = 0;  // above 0: start that many ranks with mpirun and wait for them
  int max_restarts = 10;
  int deadline_seconds = 600;  // that a rank waits for the others
  std::string format = "text";
};

// Options with their defaults and help, spelt --learning_rate or --learning-rate.
void AddOptions(CLI::App& app, CommandLine* line);

}  // namespace tidegate::pretrain
