// report.html of a run: its curves, drawn from metrics.jsonl. Numbers only. Thread-safe.
#pragma once

#include <filesystem>

#include "base/status.h"

namespace tidegate::runlog {

// Reads DIR/metrics.jsonl, which holds each step once however often the run was resumed, and writes
// DIR/report.html: loss, held-out loss, learning rate, gradient norm and tokens per second. A long
// run is drawn as the means of at most kMaxPoints stretches.
inline constexpr size_t kMaxPoints = 600;
Status WriteRunPage(const std::filesystem::path& dir);

}  // namespace tidegate::runlog
