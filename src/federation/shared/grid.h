// The parameter grid: a shared adapter's parameters are multiples of 2^-28 in absolute value below
// 2^3, so that start + delta is exact on both shores (docs/architecture.md, "Numbers that are
// exact").
#pragma once

#include <cmath>
#include <span>

#include "base/status.h"

namespace tidegate::federation {

// The nearest float on the grid, ties to even. Where a float's own step is wider than the grid, the
// conversion rounds to that step, which is a multiple of the grid.
inline float SnapToGrid(double value) {
  return static_cast<float>(std::nearbyint(value * 0x1p28) * 0x1p-28);
}

// Snaps all of them. kFailedPrecondition naming the first that is not finite or is 4 or more in
// absolute value: the run diverged, lower the learning rate.
Status SnapAllToGrid(std::span<float> parameters);

}  // namespace tidegate::federation
