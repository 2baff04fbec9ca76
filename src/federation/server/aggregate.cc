#include "federation/server/aggregate.h"

#include <bit>

#include "federation/shared/grid.h"

namespace tidegate::federation {
namespace {

// The nearest whole number, ties to even, of a number below 2^51: beside 1.5 · 2^52 a double has
// no bits for fractions. A vector of them takes a few instructions; a conversion would take one
// each.
inline int64_t Nearest(double x) {
  constexpr double kNoFractions = 0x1.8p52;
  return std::bit_cast<int64_t>(x + kNoFractions) - std::bit_cast<int64_t>(kNoFractions);
}
static_assert(protocols::kMaxUpdateValue * (1ull << protocols::kGridBits) < 0x1p51);

}  // namespace

Status WeightedSum::Add(const protocols::UpdateView& update, uint32_t weight) {
  if (contributions_ == protocols::kMaxContributions) {
    return ResourceExhausted("a sum takes at most {} updates", protocols::kMaxContributions);
  }
  if (weight < 1 || weight > protocols::kMaxWeight) {
    return InvalidArgument("a weight of {} is not in 1 … {}", weight, protocols::kMaxWeight);
  }
  for (const protocols::UpdateTensor& t : update.tensors()) {
    if (t.first_value + t.count > sum_.size()) {
      return InvalidArgument("an update has more values than the sum");
    }
    protocols::ForEachRun(t, [this, weight](uint64_t first, std::span<const double> values) {
      int64_t* const sum = sum_.data() + first;
      for (size_t i = 0; i < values.size(); ++i) sum[i] += Nearest(values[i] * 0x1p32) * weight;
    });
  }
  total_weight_ += weight;
  ++contributions_;
  return OkStatus();
}

Result<std::vector<float>> WeightedSum::FedAvg(std::span<const float> parameters,
                                               double rate) const {
  if (contributions_ == 0) return FailedPrecondition("there is no update to average");
  if (parameters.size() != sum_.size()) {
    return InvalidArgument("{} parameters do not fit a sum of {}", parameters.size(), sum_.size());
  }
  std::vector<float> out(parameters.size());
  const auto total = static_cast<double>(total_weight_);
  for (size_t i = 0; i < out.size(); ++i) {
    const double mean = static_cast<double>(sum_[i]) / total * 0x1p-32;
    out[i] = sum_[i] == 0 ? parameters[i] : SnapToGrid(parameters[i] + rate * mean);
  }
  return out;
}

}  // namespace tidegate::federation
