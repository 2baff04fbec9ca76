#include "federation/shared/grid.h"

#include <cmath>

namespace tidegate::federation {

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
