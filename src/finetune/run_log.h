// All that a run tells while it goes: metrics.jsonl, the line for people and, with --report_to
// tensorboard, an event file in OUT/runs. Numbers only. Not thread-safe.
#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/status.h"
#include "finetune/config.h"
#include "runlog/event_file.h"
#include "runlog/progress.h"
#include "train/loop.h"

namespace tidegate::finetune {

class RunLog {
 public:
  // `progress` may be null: nothing is shown then.
  RunLog(const FinetuneConfig& config, int64_t total_steps, std::FILE* progress, bool terminal);

  // Opens the files to go on after `last_step`, and writes the first line of this start.
  Status Open(int64_t last_step, const nlohmann::ordered_json& start);
  Status Step(const train::StepResult& step);
  // `in_curve`: it is of the parameters that training has at this step, and the first of them.
  Status Eval(int64_t step, const train::EvalResult& eval, bool in_curve);
  // A line for people.
  void Note(const std::string& text);
  // The last line; ends the redrawn one.
  Status End(const nlohmann::ordered_json& end);
  void FinishLine();

 private:
  const FinetuneConfig& config_;
  runlog::ProgressLine line_;
  bool shown_;
  std::optional<runlog::MetricsFile> metrics_;
  std::optional<runlog::EventFile> events_;
};

}  // namespace tidegate::finetune
