// The weighted sum of updates in fixed-point integers. What step it makes: server_optimizer.h.
//
// Every value is rounded to the grid 2^-32 (nearest, ties to even), multiplied by the site's weight
// and added in int64: the sum does not depend on the order, and a rebuild gives the same bits.
// Memory is one int64 a parameter, whatever the number of sites. It can not overflow: the weights
// of a sum are together at most what kMaxContributions of kMaxWeight are (protocols/limits.h), and
// whoever has smaller ones may add more of them. Not thread-safe.
#pragma once

#include <span>
#include <vector>

#include "base/status.h"
#include "protocols/limits.h"
#include "protocols/update.h"

namespace tidegate::federation {

inline constexpr uint64_t kMaxTotalWeight =
    uint64_t{protocols::kMaxContributions} * protocols::kMaxWeight;

class WeightedSum {
 public:
  // `values`: parameters of the whole layout.
  explicit WeightedSum(size_t values);

  struct Contribution {
    const protocols::UpdateView* update = nullptr;
    uint32_t weight = 0;
  };
  // Adds all of them or, on an error, none, in one walk over the sum and on so many threads; the
  // bits are the same for any number. kResourceExhausted past kMaxTotalWeight, kInvalidArgument
  // for a weight out of range or an update of another layout.
  Status Add(std::span<const Contribution> contributions, unsigned threads = 1);
  Status Add(const protocols::UpdateView& update, uint32_t weight);

  // Whether these may be added to a sum of so many values and so much weight: the errors of Add.
  static Status Check(std::span<const Contribution> contributions, size_t values,
                      uint64_t weight_before = 0);

  std::span<const int64_t> sum() const { return sum_; }
  uint64_t total_weight() const { return total_weight_; }

 private:
  std::vector<int64_t> sum_;
  uint64_t total_weight_ = 0;
};

}  // namespace tidegate::federation
