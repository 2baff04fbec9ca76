// What a site learned in a round: the parameters after it minus those before. It stays onshore
// until the gate has clipped, quantized and approved it. Thread-safety: pure functions.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "base/onshore.h"
#include "base/status.h"

namespace tidegate::finetune {

using Delta = std::vector<float>;

// result − start, element by element, in the adapter's layout order. kInvalidArgument when the
// sizes differ, kDataLoss naming the element when one is not finite.
inline Result<Onshore<Delta>> ComputeDelta(std::span<const float> start,
                                           std::span<const float> result) {
  if (start.size() != result.size()) {
    return InvalidArgument("the round began with {} parameters and ended with {}", start.size(),
                           result.size());
  }
  Delta delta(start.size());
  for (size_t i = 0; i < delta.size(); ++i) {
    delta[i] = result[i] - start[i];
    if (!std::isfinite(delta[i])) {
      return DataLoss("element {} of the delta is not finite; the round's training diverged", i);
    }
  }
  return Onshore<Delta>(std::move(delta));
}

}  // namespace tidegate::finetune
