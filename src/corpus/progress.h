// How far a pass over text is: told at most once a second. Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/clock.h"

namespace tidegate::corpus {

struct Progress {
  std::string stage;  // "count words", "merge pairs", "encode"
  uint64_t done = 0;  // of `all`, in `unit`s
  uint64_t all = 0;
  std::string unit;       // "bytes", "merges"
  double per_second = 0;  // since the stage began
  double seconds_left = 0;
};

// False ends the work with kCancelled.
using ProgressFunction = std::function<bool(const Progress&)>;

class ProgressMeter {
 public:
  ProgressMeter(std::string stage, std::string unit, uint64_t all, ProgressFunction tell,
                const Clock& clock = SystemClock())
      : clock_(clock), tell_(std::move(tell)), begin_(clock.MonotonicMillis()), last_(begin_) {
    now_.stage = std::move(stage);
    now_.unit = std::move(unit);
    now_.all = all;
  }

  // False when the one who is told wants an end.
  bool Reach(uint64_t done) {
    const int64_t millis = clock_.MonotonicMillis();
    if (!tell_ || millis - last_ < 1000) return true;
    last_ = millis;
    now_.done = done;
    now_.per_second =
        1000.0 * static_cast<double>(done - skipped_) / static_cast<double>(millis - begin_);
    const uint64_t left = now_.all > done ? now_.all - done : 0;
    now_.seconds_left = now_.per_second > 0 ? static_cast<double>(left) / now_.per_second : 0;
    return tell_(now_);
  }
  // What was there before, and says nothing of the rate.
  void Skip(uint64_t done) { skipped_ = done; }

 private:
  const Clock& clock_;
  ProgressFunction tell_;
  int64_t begin_;
  int64_t last_;
  uint64_t skipped_ = 0;
  Progress now_;
};

}  // namespace tidegate::corpus
