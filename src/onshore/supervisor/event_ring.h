// The site's last events, numbered from 1: a client of the local API that comes late, or comes
// back, goes on from the number that it knows. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>

#include "onshore/api/messages.h"

namespace tidegate::onshore {

class EventRing {
 public:
  static constexpr size_t kKept = 4096;

  void Add(int64_t unix_millis, Source source, uint32_t code,
           const std::array<int64_t, 4>& arguments) {
    if (events_.size() == kKept) events_.pop_front();
    events_.push_back({++last_, 0, unix_millis, static_cast<uint32_t>(source), code, arguments});
  }
  uint64_t last() const { return last_; }
  // Of the kept ones; last() + 1 when there is none.
  uint64_t oldest() const { return last_ + 1 - events_.size(); }

  // The first event after `sequence`, with how many were lost before it; nothing when there is none
  // yet.
  std::optional<api::EventMessage> After(uint64_t sequence) const {
    if (sequence >= last_) return std::nullopt;
    const uint64_t next = std::max(sequence + 1, oldest());
    api::EventMessage event = events_[next - oldest()];
    event.lost = next - sequence - 1;
    return event;
  }

 private:
  std::deque<api::EventMessage> events_;
  uint64_t last_ = 0;
};

}  // namespace tidegate::onshore
