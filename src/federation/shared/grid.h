// The parameter grid: a shared adapter's parameters are multiples of 2^-28 in absolute value below
// 2^3, so that start + delta is exact on both shores (docs/architecture.md, "Numbers that are
// exact").
#pragma once

#include <span>

#include "base/status.h"

namespace tidegate::federation {

// The nearest float on the grid, ties to even.
float SnapToGrid(double value);

// Snaps all of them. kFailedPrecondition naming the first that is not finite or is 4 or more in
// absolute value: the run diverged, lower the learning rate.
Status SnapAllToGrid(std::span<float> parameters);

}  // namespace tidegate::federation
