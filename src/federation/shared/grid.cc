#include "federation/shared/grid.h"

#include <algorithm>

namespace tidegate::federation {

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
  for (float& p : parameters) p = SnapToGrid(p);
  return OkStatus();
}

}  // namespace tidegate::federation
