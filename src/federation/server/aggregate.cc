#include "federation/server/aggregate.h"

#include <cmath>

#include "federation/shared/grid.h"

namespace tidegate::federation {

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
    protocols::ForEachValue(t, [&](uint64_t i, double value) {
      sum_[i] += static_cast<int64_t>(std::nearbyint(value * 0x1p32)) * weight;
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
