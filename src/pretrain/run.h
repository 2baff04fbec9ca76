// One run of pretraining on one rank: from the options to the base it writes. Every rank calls it
// with the same options. Not thread-safe.
#pragma once

#include <cstdio>
#include <functional>

#include "base/status.h"
#include "cluster/collectives.h"
#include "pretrain/config.h"
#include "pretrain/samples.h"

namespace tidegate::pretrain {

struct RunParts {
  SampleSource* train = nullptr;
  SampleSource* held_out = nullptr;         // may be null
  cluster::Collectives* control = nullptr;  // null for a rank alone
  cluster::Collectives* data = nullptr;     // as control, or NCCL's for gradients on GPUs
  std::function<bool()> stop_asked;         // by a signal: ends after the step, saved
  std::FILE* progress = nullptr;            // for people, on rank 0; may be null
  bool terminal = false;
};

struct RunReport {
  int64_t steps = 0, total_steps = 0, resumed_at = 0;
  double loss = 0;  // of the last step made here
  double held_out_nll = 0;
  bool has_held_out = false;
  double tokens_per_second = 0;
  std::filesystem::path base;  // empty when it was stopped
};

// kCancelled when it was asked to stop: the state is saved. kAlreadyExists where output_dir has a
// state and `resume` is not set. Other errors end the groups of all ranks.
Result<RunReport> RunPretraining(const PretrainConfig& config, const RunParts& parts);

}  // namespace tidegate::pretrain
