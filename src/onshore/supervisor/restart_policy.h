// When a process that ended is started again. Pure; time comes in. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

namespace tidegate::onshore {

class RestartPolicy {
 public:
  static constexpr int64_t kFirstDelayMillis = 50, kMaxDelayMillis = 5000;
  static constexpr int64_t kSteadyMillis = 10'000;  // lived so long: the next delay is the first
  static constexpr int64_t kWindowMillis = 600'000;
  static constexpr size_t kMaxInWindow = 60;
  static constexpr int kMaxRefusals = 3;

  // All times are milliseconds of a clock that never goes back.
  void Started(int64_t now) { started_ = now; }
  // How long to wait before the next start; nothing when it has ended too often.
  std::optional<int64_t> Ended(int64_t now) {
    while (!ends_.empty() && now - ends_.front() > kWindowMillis) ends_.pop_front();
    ends_.push_back(now);
    if (ends_.size() > kMaxInWindow) return std::nullopt;
    if (now - started_ >= kSteadyMillis) delay_ = kFirstDelayMillis;
    const int64_t delay = delay_;
    delay_ = delay_ * 2 > kMaxDelayMillis ? kMaxDelayMillis : delay_ * 2;
    return delay;
  }
  // To be asked of each end; `refused` where the process itself said why it cannot run (a file that
  // is missing, a rule that is malformed). True when that came soon after kMaxRefusals starts in a
  // row: a person has to look.
  bool Hopeless(int64_t now, bool refused) {
    refusals_ = refused && now - started_ < kSteadyMillis ? refusals_ + 1 : 0;
    return hopeless();
  }
  bool hopeless() const { return refusals_ >= kMaxRefusals; }

 private:
  int64_t started_ = 0;
  int64_t delay_ = kFirstDelayMillis;
  std::deque<int64_t> ends_;
  int refusals_ = 0;
};

}  // namespace tidegate::onshore
