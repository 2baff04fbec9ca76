// An event file that TensorBoard opens: the scalars of a run, by step. The format is TensorFlow's:
// records (length, its masked CRC-32C, data, its masked CRC-32C), each an Event protobuf; here with
// wall_time, step and one Summary of simple values. Numbers only. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"

namespace tidegate::runlog {

struct Scalar {
  std::string_view tag;  // "train/loss"
  double value = 0;      // written as float
};

// One record around `data`.
Bytes EventRecord(ByteSpan data);

class EventFile {
 public:
  // Makes DIR/events.out.tfevents.NNNNNNNN.tidegate, where N is `last_step`, the step that a
  // resumed run goes on after; its first event tells readers to forget what an earlier file has
  // beyond that. Files of later starts, which this start takes back, are removed. No name of the
  // machine or of a person is in it. `clock` must outlive the object.
  static Result<EventFile> Open(const std::filesystem::path& dir, int64_t last_step,
                                const Clock& clock);

  Status Write(int64_t step, std::span<const Scalar> scalars);

 private:
  EventFile(Fd fd, std::string name, const Clock& clock)
      : fd_(std::move(fd)), name_(std::move(name)), clock_(&clock) {}
  Status WriteEvent(int64_t step, ByteSpan what);

  Fd fd_;
  std::string name_;
  const Clock* clock_;
};

}  // namespace tidegate::runlog
