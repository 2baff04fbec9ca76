// Time as an interface, so that rounds and budgets can be tested without waiting.
#pragma once

#include <cstdint>
#include <string>

namespace tidegate {

class Clock {
 public:
  virtual ~Clock() = default;
  // Milliseconds since 1970-01-01 UTC. May jump; for records and deadlines across machines.
  virtual int64_t UnixMillis() const = 0;
  // Milliseconds since an unnamed start. Never goes back; for time-outs.
  virtual int64_t MonotonicMillis() const = 0;
};

// The machine's clocks. Thread-safe.
const Clock& SystemClock();

// A clock that stands until it is moved. Not thread-safe.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(int64_t unix_millis) : unix_(unix_millis) {}
  int64_t UnixMillis() const override { return unix_; }
  int64_t MonotonicMillis() const override { return monotonic_; }
  void Advance(int64_t millis) {
    unix_ += millis;
    monotonic_ += millis;
  }

 private:
  int64_t unix_;
  int64_t monotonic_ = 0;
};

// "2026-11-25T04:37:16Z"
std::string FormatUtc(int64_t unix_millis);

}  // namespace tidegate
