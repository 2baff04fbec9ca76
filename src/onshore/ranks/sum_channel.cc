#include "onshore/ranks/sum_channel.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/file.h"

namespace tidegate::onshore {
namespace {

constexpr uint32_t kMagic = 0x4d534754;  // "TGSM"
constexpr size_t kReadAtOnce = 1 << 17;  // values

struct Head {
  uint32_t magic = kMagic;
  uint32_t type = 0;
  uint64_t count = 0;
};

Status Send(int fd, SumFrameType type, std::span<const int64_t> values) {
  Head head;
  head.type = static_cast<uint32_t>(type);
  head.count = values.size();
  TG_RETURN_IF_ERROR(
      WriteAll(fd, {reinterpret_cast<const uint8_t*>(&head), sizeof(head)}, "the ranks' pipe"));
  return WriteAll(fd, {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()},
                  "the ranks' pipe");
}

// How many of `count` bytes came before the end.
Result<size_t> ReadUpTo(int fd, void* to, size_t count) {
  size_t at = 0;
  while (at < count) {
    const ssize_t n = ::read(fd, static_cast<char*>(to) + at, count - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unexpected(ErrnoStatus("read", "the ranks' pipe", errno));
    if (n == 0) break;
    at += static_cast<size_t>(n);
  }
  return at;
}

}  // namespace

Status SendSum(int fd, std::span<const int64_t> values) {
  return Send(fd, SumFrameType::kSum, values);
}

Status SendTextFollows(int fd) { return Send(fd, SumFrameType::kText, {}); }

Result<std::optional<SumFrame>> ReceiveSum(int fd) {
  Head head;
  TG_ASSIGN_OR_RETURN(const size_t came, ReadUpTo(fd, &head, sizeof(head)));
  if (came == 0) return std::nullopt;
  if (came < sizeof(head)) return DataLoss("a frame of the ranks' pipe was cut");
  const bool text = head.type == static_cast<uint32_t>(SumFrameType::kText) && head.count == 0;
  const bool sum =
      head.type == static_cast<uint32_t>(SumFrameType::kSum) && head.count <= kMaxSumValues;
  if (head.magic != kMagic || !(text || sum)) {
    return DataLoss("what came over the ranks' pipe is no frame");
  }
  SumFrame frame;
  frame.type = static_cast<SumFrameType>(head.type);
  while (frame.values.size() < head.count) {
    const size_t at = frame.values.size();
    const size_t next = std::min<size_t>(head.count - at, kReadAtOnce);
    frame.values.resize(at + next);
    const size_t bytes = next * sizeof(int64_t);
    TG_ASSIGN_OR_RETURN(const size_t got, ReadUpTo(fd, frame.values.data() + at, bytes));
    if (got < bytes) return DataLoss("a sum of the ranks' pipe was cut");
  }
  return std::optional<SumFrame>(std::move(frame));
}

}  // namespace tidegate::onshore
