// The parameter grid: a shared adapter's parameters are multiples of 2^-28 in absolute value below
// 2^3, so that start + delta is exact on both shores (docs/architecture.md, "Numbers that are
// exact").
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

#include "base/status.h"

namespace tidegate::federation {

// The nearest float on the grid, ties to even. Without a branch or a call, for loops over millions.
inline float SnapToGrid(double value) {
  // Beside 1.5 · 2^52 a double has no bits for fractions: the sum is rounded to a whole number.
  constexpr double kNoFractions = 0x1.8p52, kMostWhole = 0x1p51;
  const double x = value * 0x1p28;
  const double whole = std::copysign((x + kNoFractions) - kNoFractions, x);
  // Where a float's own step is wider than the grid, the conversion rounds to that step, which is a
  // multiple of the grid.
  return static_cast<float>((std::abs(x) < kMostWhole ? whole : x) * 0x1p-28);
}

// The largest parameter: the float before 4, which is on the grid.
inline constexpr float kLargestOnGrid = 0x1.fffffep1f;

// Snaps all of them. kFailedPrecondition naming the first that is not finite or is 4 or more in
// absolute value: the run diverged, lower the learning rate.
Status SnapAllToGrid(std::span<float> parameters);

// For a round's sum, which one site can push as far as it likes: as SnapAllToGrid, but what is 4 or
// more in absolute value becomes kLargestOnGrid with its sign. How many did is in `saturated`.
// kFailedPrecondition naming the first that is no number.
Status SaturateAllToGrid(std::span<float> parameters, size_t* saturated);

// For what a site makes of the version `start`: as SnapAllToGrid, but a value that `start` has at
// half of the limit or beyond, where others may have pushed it, saturates as in SaturateAllToGrid.
Status SnapResultToGrid(std::span<const float> start, std::span<float> result, size_t* saturated);

}  // namespace tidegate::federation
