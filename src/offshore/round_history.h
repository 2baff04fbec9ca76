// What the rounds of a job have been like, for people to look at: the newest of them, in memory.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>

#include "federation/server/store.h"

namespace tidegate::offshore {

class RoundHistory {
 public:
  static constexpr size_t kRemembered = 500;

  void Opened(uint32_t round, int64_t unix_millis);
  // A counted update of `bytes` sealed bytes.
  void Took(const federation::StoredUpdate& update, uint64_t bytes);

  // A list, oldest first: round, opened, seconds (to its last update; none yet: null), updates,
  // bytes, and the means of the losses that were told (null: none was).
  nlohmann::ordered_json ToJson() const;

 private:
  struct Round {
    uint32_t round = 0;
    int64_t opened = 0, last = 0;
    uint64_t updates = 0, bytes = 0;
    uint64_t train_sum = 0, train_told = 0;  // in thousandths
    uint64_t heldout_sum = 0, heldout_told = 0;
  };
  Round& At(uint32_t round);
  std::deque<Round> rounds_;
};

}  // namespace tidegate::offshore
