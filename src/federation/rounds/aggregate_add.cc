#include "federation/rounds/aggregate_add.h"

#include <algorithm>
#include <bit>

// Into every function that calls it, and so with that function's instructions.
#define TIDEGATE_EACH_ISA [[gnu::always_inline]] inline

namespace tidegate::federation {
namespace {

using protocols::Codec;
using protocols::UpdateTensor;
using protocols::update_detail::kRun;

// Beside 1.5 · 2^52 a double has no bits for fractions: x + kNoFractions is the nearest whole
// number, ties to even, and the lowest bits of it are that number, while |x| < 2^51. A vector of
// them takes a few instructions; a conversion would take one each.
constexpr double kNoFractions = 0x1.8p52;
constexpr double kMostWhole = 0x1p51;
static_assert(protocols::kMaxUpdateValue * (1ull << protocols::kGridBits) < kMostWhole);

TIDEGATE_EACH_ISA int64_t Whole(double x) {
  return std::bit_cast<int64_t>(x + kNoFractions) - std::bit_cast<int64_t>(kNoFractions);
}

// No value of the run is larger in absolute value.
TIDEGATE_EACH_ISA double Bound(const UpdateTensor& tensor, uint64_t first, uint64_t count) {
  if (tensor.codec == Codec::kBf16) return protocols::kMaxUpdateValue;
  if (tensor.codec == Codec::kFixed32) return 0x1p31 * 0x1p-28;
  const uint64_t group = protocols::UpdateGroup(tensor.codec);
  double most = 0;
  for (uint64_t i = first; i < first + count; i += group) {
    most = std::max(most, protocols::update_detail::ScaleOf(tensor, i / group));
  }
  return most * protocols::UpdateMaxQ(tensor.codec);
}

TIDEGATE_EACH_ISA void AddRuns(const UpdateTensor& tensor, uint64_t begin, uint64_t end,
                               uint32_t weight, int64_t* sum) {
  double values[kRun];
  const double w = weight;
  for (uint64_t first = begin; first < end; first += kRun, sum += kRun) {
    const uint64_t count = std::min(kRun, end - first);
    protocols::update_detail::DecodeRun(tensor, first, count, values);
    // Doubles are exact here, and every instruction set multiplies them eight times as fast as it
    // does 64-bit integers, which are for what is heavy and large.
    if (Bound(tensor, first, count) * 0x1p32 * w < kMostWhole) {
      for (uint64_t i = 0; i < count; ++i) {
        const double nearest = (values[i] * 0x1p32 + kNoFractions) - kNoFractions;
        sum[i] += Whole(nearest * w);
      }
    } else {
      for (uint64_t i = 0; i < count; ++i) sum[i] += Whole(values[i] * 0x1p32) * weight;
    }
  }
}

// flatten: nothing that is called may stay behind, compiled for another machine.
[[gnu::flatten]] void AddBase(const UpdateTensor& tensor, uint64_t begin, uint64_t end,
                              uint32_t weight, int64_t* sum) {
  AddRuns(tensor, begin, end, weight, sum);
}

[[gnu::flatten, gnu::target("avx2")]] void AddAvx2(const UpdateTensor& tensor, uint64_t begin,
                                                   uint64_t end, uint32_t weight, int64_t* sum) {
  AddRuns(tensor, begin, end, weight, sum);
}

[[gnu::flatten,
  gnu::target("avx2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]] void
AddAvx512(const UpdateTensor& tensor, uint64_t begin, uint64_t end, uint32_t weight, int64_t* sum) {
  AddRuns(tensor, begin, end, weight, sum);
}

}  // namespace

bool MachineRuns(AddLoop loop) {
  switch (loop) {
    case AddLoop::kBase:
      return true;
    case AddLoop::kAvx2:
      return __builtin_cpu_supports("avx2");
    case AddLoop::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return false;
}

AddLoop FastestAddLoop() {
  static const AddLoop fastest = MachineRuns(AddLoop::kAvx512) ? AddLoop::kAvx512
                                 : MachineRuns(AddLoop::kAvx2) ? AddLoop::kAvx2
                                                               : AddLoop::kBase;
  return fastest;
}

void AddValues(AddLoop loop, const UpdateTensor& tensor, uint64_t begin, uint64_t end,
               uint32_t weight, int64_t* sum) {
  switch (loop) {
    case AddLoop::kBase:
      return AddBase(tensor, begin, end, weight, sum);
    case AddLoop::kAvx2:
      return AddAvx2(tensor, begin, end, weight, sum);
    case AddLoop::kAvx512:
      return AddAvx512(tensor, begin, end, weight, sum);
  }
}

}  // namespace tidegate::federation
