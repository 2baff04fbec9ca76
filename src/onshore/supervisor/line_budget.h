// How many lines a child may write to the site's log: the log is on a disk, the child may be lost
// to an enemy. Pure; time comes in. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace tidegate::onshore {

class LineBudget {
 public:
  static constexpr int64_t kBurst = 200, kPerSecond = 20;

  // False: drop the line. `now` in milliseconds of a clock that never goes back.
  bool Take(int64_t now) {
    millilines_ = std::min(millilines_ + (now - last_) * kPerSecond, kBurst * 1000);
    last_ = now;
    if (millilines_ < 1000) {
      ++dropped_;
      return false;
    }
    millilines_ -= 1000;
    return true;
  }
  // How many lines were dropped since it was last asked.
  uint64_t TakeDropped() { return std::exchange(dropped_, 0); }

 private:
  int64_t millilines_ = kBurst * 1000;
  int64_t last_ = 0;
  uint64_t dropped_ = 0;
};

}  // namespace tidegate::onshore
