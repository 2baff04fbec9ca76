// Ranks on this machine: starts them with mpirun, waits, and starts them again from the newest
// checkpoint when one is lost. Not thread-safe; one in a process.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tidegate::pretrain {

struct LaunchOptions {
  int ranks = 1;
  // Starts without a new checkpoint in between: a job that cannot get on ends.
  int max_restarts = 10;
  std::filesystem::path output_dir;
  std::vector<std::string> arguments;  // of each rank, without --nproc
};

// SIGTERM and SIGINT reach the ranks as SIGUSR1, and nothing is started any more. The exit code of
// the job: that of the last start.
int LaunchRanks(const LaunchOptions& options);

}  // namespace tidegate::pretrain
