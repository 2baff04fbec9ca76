#include "federation/shared/grid.h"

#include <cmath>

namespace tidegate::federation {

float SnapToGrid(double value) {
  // Where a float's own step is wider than the grid, the conversion rounds to that step, which is a
  // multiple of the grid.
  return static_cast<float>(std::nearbyint(value * 0x1p28) * 0x1p-28);
}

Status SnapAllToGrid(std::span<float> parameters) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!(std::abs(parameters[i]) < 4.0f)) {
      return FailedPrecondition(
          "adapter parameter {} is {}, a shared adapter's are below 4 in absolute value; the run "
          "diverged: lower the learning rate",
          i, parameters[i]);
    }
    parameters[i] = SnapToGrid(parameters[i]);
  }
  return OkStatus();
}

}  // namespace tidegate::federation
