#include "federation/shared/grid.h"

#include <algorithm>

namespace tidegate::federation {

namespace {

// SnapToGrid of a float below 4 in absolute value, in floats alone: from 2^23 steps on it is on the
// grid already, and one below that plus 2^23 is rounded to a whole number, ties to even.
float SnapSmall(float value) {
  constexpr float kNoFractions = 0x1p23f;
  const float steps = value * 0x1p28f, size = std::abs(steps);
  const float whole = std::copysign((size + kNoFractions) - kNoFractions, steps);
  return (size < kNoFractions ? whole : steps) * 0x1p-28f;
}

}  // namespace

Status SnapAllToGrid(std::span<float> parameters) {
  int bad = 0;
  for (const float p : parameters) bad |= !(std::abs(p) < 4.0f);
  if (bad != 0) {
    const auto first = std::find_if(parameters.begin(), parameters.end(),
                                    [](float p) { return !(std::abs(p) < 4.0f); });
    return FailedPrecondition(
        "adapter parameter {} is {}, a shared adapter's are below 4 in absolute value; the run "
        "diverged: lower the learning rate",
        first - parameters.begin(), *first);
  }
  for (float& p : parameters) p = SnapSmall(p);
  return OkStatus();
}

}  // namespace tidegate::federation
