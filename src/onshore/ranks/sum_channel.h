// Between a walled trainer that plays a rank of a simulation and the program outside that adds over
// the ranks (tidegate-simulate): whole numbers in frames over two pipes, one process on both ends'
// machine. All that leaves the walls are these sums, and at the end what is printed.
//
// A frame: "TGSM" · u32 type · u64 count, in the machine's byte order; then `count` int64 of a sum,
// or nothing where what follows until the end is text for standard output. Blocking; not
// thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"

namespace tidegate::onshore {

// The parameters of the largest adapter (protocols/limits.h), and what goes beside them.
inline constexpr uint64_t kMaxSumValues = (1ull << 30) + 64;

enum class SumFrameType : uint32_t { kSum = 1, kText = 2 };

// kUnavailable when nobody reads any more; SIGPIPE must be ignored.
Status SendSum(int fd, std::span<const int64_t> values);
Status SendTextFollows(int fd);

struct SumFrame {
  SumFrameType type = SumFrameType::kSum;
  std::vector<int64_t> values;
};
// Nothing at the end of the pipe; kDataLoss for what is no frame, or one that was cut. Memory grows
// with what came, not with what a frame says.
Result<std::optional<SumFrame>> ReceiveSum(int fd);

}  // namespace tidegate::onshore
