#include "cases.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "cluster/collective_stream.h"

namespace tidegate::cluster {
namespace {

#define EXPECT_THAT_OR_RETURN(condition, ...)                                   \
  do {                                                                          \
    if (!(condition)) return Status(Code::kInternal, fmt::format(__VA_ARGS__)); \
  } while (0)

// Values of all magnitudes, so that another order of adding gives other bits.
float Value(int rank, size_t i) {
  const auto words = RandomWords(7, RngPurpose::kTest, static_cast<uint32_t>(rank), i);
  return std::ldexp(UniformFloat(words[0]) - 0.5f, static_cast<int>(words[1] % 24) - 12);
}

// As ordered_sum.h says, by its definition: the largest power of two of ranks, and the rest.
float Tree(int first, int count, size_t i) {
  if (count == 1) return Value(first, i);
  const int left = static_cast<int>(std::bit_ceil(static_cast<unsigned>(count)) / 2);
  return Tree(first, left, i) + Tree(first + left, count - left, i);
}

std::vector<float> Values(int rank, size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = Value(rank, i);
  return values;
}

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

// From nothing to more than one piece of any backend's staging.
constexpr size_t kCounts[] = {0, 1, 3, 1000, 1025, 300'000};

Status OrderedAllReduce(Collectives& group) {
  for (const size_t count : kCounts) {
    std::vector<float> data = Values(group.rank(), count);
    TG_RETURN_IF_ERROR(group.AllReduce("sum", data.data(), count, DType::kF32));
    TG_RETURN_IF_ERROR(group.Finish());
    for (size_t i = 0; i < count; ++i) {
      const float expected = Tree(0, group.size(), i);
      EXPECT_THAT_OR_RETURN(SameBits(data[i], expected), "element {} of {} is {}, not {}", i, count,
                            data[i], expected);
    }
  }
  return OkStatus();
}

Status OrderedReduceScatter(Collectives& group) {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{1025}, size_t{100'000}}) {
    std::vector<float> all = Values(group.rank(), count * group.size());
    const std::vector<float> before = all;
    float* mine = all.data() + group.rank() * count;
    TG_RETURN_IF_ERROR(group.ReduceScatter("scatter", all.data(), mine, count, DType::kF32));
    TG_RETURN_IF_ERROR(group.Finish());
    for (size_t i = 0; i < all.size(); ++i) {
      const bool own = i / std::max<size_t>(count, 1) == static_cast<size_t>(group.rank());
      const float expected = own ? Tree(0, group.size(), i) : before[i];
      EXPECT_THAT_OR_RETURN(SameBits(all[i], expected), "element {} of {} is {}, not {}", i, count,
                            all[i], expected);
    }
  }
  return OkStatus();
}

// Sums that are exact in each type, so that they hold for any order.
template <typename T>
Status ExactSums(Collectives& group, DType dtype) {
  std::vector<T> data(777);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<T>((group.rank() + 1) * (i % 5));
  TG_RETURN_IF_ERROR(group.AllReduce("exact", data.data(), data.size(), dtype));
  TG_RETURN_IF_ERROR(group.Finish());
  const int ranks = group.size() * (group.size() + 1) / 2;
  for (size_t i = 0; i < data.size(); ++i) {
    const T expected = static_cast<T>(ranks * (i % 5));
    EXPECT_THAT_OR_RETURN(data[i] == expected, "{} element {}", DTypeName(dtype), i);
  }
  return OkStatus();
}

Status SumsOfEachType(Collectives& group) {
  TG_RETURN_IF_ERROR(ExactSums<float>(group, DType::kF32));
  TG_RETURN_IF_ERROR(ExactSums<double>(group, DType::kF64));
  TG_RETURN_IF_ERROR(ExactSums<int64_t>(group, DType::kI64));
  TG_RETURN_IF_ERROR(ExactSums<uint8_t>(group, DType::kU8));
  // 1.0, 2.0, ... as bf16 is the upper half of the float.
  const float mine = static_cast<float>(group.rank() + 1);
  std::vector<uint16_t> data(33, static_cast<uint16_t>(std::bit_cast<uint32_t>(mine) >> 16));
  TG_RETURN_IF_ERROR(group.AllReduce("bf16", data.data(), data.size(), DType::kBf16));
  TG_RETURN_IF_ERROR(group.Finish());
  const float sum = static_cast<float>(group.size() * (group.size() + 1) / 2);
  for (const uint16_t value : data) {
    EXPECT_THAT_OR_RETURN(value == std::bit_cast<uint32_t>(sum) >> 16, "bf16 sum is {:#x}", value);
  }
  return OkStatus();
}

// 1 + size-1 times 2^-8: in bf16 each addition alone would be lost, in f32 the sum is not.
Status Bf16IsRoundedOnce(Collectives& group) {
  const float mine = group.rank() == 0 ? 1.0f : 0x1p-8f;
  uint16_t data = static_cast<uint16_t>(std::bit_cast<uint32_t>(mine) >> 16);
  TG_RETURN_IF_ERROR(group.AllReduce("bf16", &data, 1, DType::kBf16));
  TG_RETURN_IF_ERROR(group.Finish());
  const float sum = std::bit_cast<float>(static_cast<uint32_t>(data) << 16);
  const float exact = 1.0f + static_cast<float>(group.size() - 1) * 0x1p-8f;
  EXPECT_THAT_OR_RETURN(std::fabs(sum - exact) <= 0x1p-8f, "bf16 sum {} for {}", sum, exact);
  if (group.size() == 3) EXPECT_THAT_OR_RETURN(sum == 1.0f + 0x1p-7f, "bf16 sum is {}", sum);
  return OkStatus();
}

Status Gathers(Collectives& group) {
  for (const size_t count : kCounts) {
    std::vector<float> all(count * group.size());
    const std::vector<float> mine = Values(group.rank(), count);
    TG_RETURN_IF_ERROR(group.AllGather("gather", mine.data(), all.data(), count, DType::kF32));
    TG_RETURN_IF_ERROR(group.Finish());
    // In place: the own piece is there already.
    std::vector<float> in_place(count * group.size());
    float* own = in_place.data() + group.rank() * count;
    std::copy(mine.begin(), mine.end(), own);
    TG_RETURN_IF_ERROR(group.AllGather("in place", own, in_place.data(), count, DType::kF32));
    TG_RETURN_IF_ERROR(group.Finish());
    EXPECT_THAT_OR_RETURN(all == in_place, "gathered in place differs at {} elements", count);
    for (size_t i = 0; i < all.size(); ++i) {
      const float expected = Value(static_cast<int>(i / count), i % count);
      EXPECT_THAT_OR_RETURN(SameBits(all[i], expected), "element {} of {}", i, count);
    }
  }
  return OkStatus();
}

Status Broadcasts(Collectives& group) {
  for (int root = 0; root < group.size(); ++root) {
    for (const size_t count : kCounts) {
      std::vector<float> data = Values(group.rank(), count);
      TG_RETURN_IF_ERROR(group.Broadcast("tell", data.data(), count, DType::kF32, root));
      TG_RETURN_IF_ERROR(group.Finish());
      EXPECT_THAT_OR_RETURN(data == Values(root, count), "{} elements of root {}", count, root);
    }
  }
  return OkStatus();
}

Status Exchanges(Collectives& group) {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{70'001}}) {
    std::vector<int64_t> in(count * group.size());
    std::vector<int64_t> out(count * group.size(), -1);
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int64_t>(i * 1000) + group.rank();
    TG_RETURN_IF_ERROR(group.AllToAll("swap", in.data(), out.data(), count, DType::kI64));
    TG_RETURN_IF_ERROR(group.Finish());
    for (size_t i = 0; i < out.size(); ++i) {
      const auto from = static_cast<int64_t>(i / count);
      const auto at = static_cast<int64_t>(group.rank() * count + i % count);
      EXPECT_THAT_OR_RETURN(out[i] == at * 1000 + from, "element {} of {}", i, count);
    }
  }
  return OkStatus();
}

Status BarriersEnd(Collectives& group) {
  for (int i = 0; i < 20; ++i) TG_RETURN_IF_ERROR(group.Barrier("meet"));
  return OkStatus();
}

// More calls than the stream holds, computation beside them.
Status StreamRunsInOrder(Collectives& group) {
  constexpr int kCalls = 40;
  std::vector<int64_t> sums(kCalls);
  {
    CollectiveStream stream(group, 4);
    std::vector<CollectiveStream::Handle> handles;
    for (int i = 0; i < kCalls; ++i) {
      sums[i] = i + group.rank();
      handles.push_back(stream.Submit([&sums, i](Collectives& all) {
        return all.AllReduce(fmt::format("bucket {}", i), &sums[i], 1, DType::kI64);
      }));
    }
    for (const auto& handle : handles) TG_RETURN_IF_ERROR(handle.Wait());
    TG_RETURN_IF_ERROR(stream.Drain());
  }
  const int64_t ranks = group.size() * (group.size() - 1) / 2;
  for (int i = 0; i < kCalls; ++i) {
    EXPECT_THAT_OR_RETURN(sums[i] == i * group.size() + ranks, "bucket {} is {}", i, sums[i]);
  }
  return OkStatus();
}

// Each rank must say this, and go on saying it.
Status ExpectOver(Collectives& group, const Status& status, Code code,
                  std::initializer_list<std::string_view> words) {
  EXPECT_THAT_OR_RETURN(status.code() == code, "expected {}, got: {}", CodeName(code),
                        status.ToString());
  for (const std::string_view word : words) {
    EXPECT_THAT_OR_RETURN(status.message().find(word) != std::string::npos, "\"{}\" is not in: {}",
                          word, status.message());
  }
  const Status later = group.Barrier("later");
  EXPECT_THAT_OR_RETURN(!later.ok(), "a call after the group was over was OK");
  return OkStatus();
}

}  // namespace

std::span<const Case> Cases() {
  static constexpr Case kCases[] = {
      {"barriers", BarriersEnd},
      {"ordered all_reduce", OrderedAllReduce, true},
      {"ordered reduce_scatter", OrderedReduceScatter, true},
      {"sums of each type", SumsOfEachType},
      {"bf16 is rounded once", Bf16IsRoundedOnce, true},
      {"all_gather", Gathers},
      {"broadcast", Broadcasts},
      {"all_to_all", Exchanges},
      {"stream", StreamRunsInOrder},
  };
  return kCases;
}

Status RunAllCases(Collectives& group) {
  for (const Case& test : Cases()) {
    if (test.ordered_sums && group.backend() == "nccl") continue;
    if (Status end = test.run(group); !end.ok()) {
      group.Abort(test.name);
      return end.WithContext(test.name);
    }
  }
  return OkStatus();
}

Status RunMismatchedTag(Collectives& group) {
  float x = 1;
  const std::string_view tag = group.rank() == 1 ? "layer0.B" : "layer0.A";
  const Status status = group.AllReduce(tag, &x, 1, DType::kF32);
  return ExpectOver(group, status, Code::kFailedPrecondition,
                    {"all_reduce 'layer0.A' of 1 f32", "rank 1 all_reduce 'layer0.B' of 1 f32"});
}

Status RunMismatchedCount(Collectives& group) {
  std::vector<float> data(9);
  const size_t count = group.rank() == 1 ? 9 : 8;
  const Status status = group.Broadcast("weights", data.data(), count, DType::kF32, 0);
  return ExpectOver(group, status, Code::kFailedPrecondition,
                    {"of 8 f32 from rank 0", "rank 1 broadcast 'weights' of 9 f32"});
}

Status RunAbort(Collectives& group) {
  const std::string named = fmt::format("rank {} ended the group: disk full", group.size() - 1);
  if (group.rank() == group.size() - 1) group.Abort("disk full");
  float x = 1;
  const Status status = group.AllReduce("sum", &x, 1, DType::kF32);
  return ExpectOver(group, status, Code::kCancelled, {named});
}

Status RunLateRank(Collectives& group) {
  TG_RETURN_IF_ERROR(group.Barrier("start"));
  const int late = group.size() - 1;
  if (group.rank() == late) return OkStatus();
  const Status status = group.Barrier("never");
  const bool ended = status.code() == Code::kDeadlineExceeded || status.code() == Code::kCancelled;
  EXPECT_THAT_OR_RETURN(ended, "expected an end by time, got: {}", status.ToString());
  return ExpectOver(group, status, status.code(), {"never", fmt::format("for ranks {}", late)});
}

}  // namespace tidegate::cluster
