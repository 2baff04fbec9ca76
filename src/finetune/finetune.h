// The verb finetune: records in, PEFT folder out.
//
// output_dir afterwards: adapter_config.json and adapter_model.safetensors (PEFT), metrics.jsonl,
// report.html (the curves of metrics.jsonl), state/ (the newest two training states), with
// eval_steps best/ (the PEFT folder of the best evaluation) and with report_to runs/. A run that
// was stopped or killed leaves the last state; with `resume` it goes on and ends with the bytes of
// a run that was never stopped. Not thread-safe.
#pragma once

#include <cstdio>
#include <functional>
#include <string>

#include "base/status.h"
#include "finetune/config.h"
#include "finetune/dataset.h"
#include "finetune/session.h"
#include "train/loop.h"

namespace tidegate::finetune {

struct RunHooks {
  std::function<bool()> should_stop;  // asked after every step; may be empty
  std::FILE* progress = nullptr;      // where the progress line goes; null: nowhere
  bool terminal = false;              // progress is a terminal: redraw one line
  std::string walls = "unknown";      // for the metrics header: what stood when records were opened
};

struct FinetuneSummary {
  bool stopped = false;      // should_stop ended it; the state is saved and no adapter was written
  bool ended_early = false;  // by early_stopping_patience
  int64_t steps = 0;         // of the whole run, resumed part included
  int64_t total_steps = 0;
  int64_t steps_here = 0;        // done by this start
  double last_loss = 0;          // of the last step done here
  double tokens_per_second = 0;  // mean over the steps done here
  int64_t tokens_seen = 0, targets_seen = 0, skipped_windows = 0;
  bool has_eval = false;
  train::EvalResult eval;  // of the adapter that was written
  int64_t best_step = 0;   // 0: none
  DataReport train_report, eval_report;
  std::string dtype, kernels;
  int threads = 0;
};

// Errors: kAlreadyExists when output_dir has a state and resume was not asked; those of the
// configuration, the files and the loop.
Result<FinetuneSummary> RunFinetune(const FinetuneConfig& config, const RunHooks& hooks);
// The same with a session that is open.
Result<FinetuneSummary> RunSession(const RunHooks& hooks, Session& session);

}  // namespace tidegate::finetune
