// What a run tells while it goes: metrics.jsonl for machines, one line for people.
//
// Numbers only: no record, no text of one, no token. Not thread-safe.
#pragma once

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/file.h"
#include "base/status.h"
#include "train/loop.h"

namespace tidegate::runlog {

// metrics.jsonl: one JSON object a line. {"event":"start", ...} at each start and resume, then
// {"event":"step","step":,"epoch":,"loss":,"learning_rate":,"grad_norm":,"tokens":,"targets":,
// "tokens_per_second":,"skipped":} a step, {"event":"eval", ...} and {"event":"end", ...}.
class MetricsFile {
 public:
  // Opens `path` for appending. What a stopped run wrote beyond `last_step` is cut off first, so
  // that a resumed file has each step once; last_step 0 starts it anew.
  static Result<MetricsFile> Open(const std::filesystem::path& path, int64_t last_step);

  Status Write(const nlohmann::ordered_json& line);

 private:
  MetricsFile(Fd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Fd fd_;
  std::string name_;
};

inline constexpr uint64_t kMaxMetricsBytes = 4ull << 30;

nlohmann::ordered_json StepLine(const train::StepResult& step);

// The line for people, on `out`: redrawn in place on a terminal, else one line each
// `logging_steps`. Loss is the token-weighted mean since the last line; seconds are smoothed.
class ProgressLine {
 public:
  ProgressLine(std::FILE* out, bool terminal, int64_t total_steps, int64_t logging_steps);
  void Step(const train::StepResult& step);
  // A line of its own, above the redrawn one.
  void Note(const std::string& text);
  // Ends the redrawn line.
  void Finish();

 private:
  std::string Text(const train::StepResult& step, double loss) const;

  std::FILE* out_;
  bool terminal_;
  bool open_line_ = false;
  int64_t total_steps_, logging_steps_;
  double loss_sum_ = 0;
  int64_t targets_ = 0;
  double seconds_per_step_ = 0;
  double tokens_per_second_ = 0;
};

// "2h05m", "3m12s", "9s"
std::string FormatSeconds(double seconds);

}  // namespace tidegate::runlog
