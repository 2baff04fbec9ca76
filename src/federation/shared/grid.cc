#include "federation/shared/grid.h"

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

// False of what is no number.
bool Fits(float value) { return std::abs(value) < 4.0f; }

bool AllFit(std::span<const float> values) {
  int bad = 0;
  for (const float value : values) bad |= !Fits(value);
  return bad == 0;
}

// Those that do not fit and that `may` be: at the end of the grid.
template <typename F>
Status Saturate(std::span<float> values, size_t* saturated, F&& may) {
  *saturated = 0;
  if (AllFit(values)) return OkStatus();
  for (size_t i = 0; i < values.size(); ++i) {
    float& value = values[i];
    if (Fits(value)) continue;
    if (std::isnan(value) || !may(i)) {
      return FailedPrecondition(
          "adapter parameter {} is {}, a shared adapter's are below 4 in absolute value; the run "
          "diverged: lower the learning rate",
          i, value);
    }
    value = std::copysign(kLargestOnGrid, value);
    ++*saturated;
  }
  return OkStatus();
}

void SnapEach(std::span<float> values) {
  for (float& value : values) value = SnapSmall(value);
}

}  // namespace

Status SnapAllToGrid(std::span<float> parameters) {
  size_t none = 0;
  TG_RETURN_IF_ERROR(Saturate(parameters, &none, [](size_t) { return false; }));
  SnapEach(parameters);
  return OkStatus();
}

Status SaturateAllToGrid(std::span<float> parameters, size_t* saturated) {
  TG_RETURN_IF_ERROR(Saturate(parameters, saturated, [](size_t) { return true; }));
  SnapEach(parameters);
  return OkStatus();
}

Status SnapResultToGrid(std::span<const float> start, std::span<float> result, size_t* saturated) {
  if (start.size() != result.size()) {
    return Internal("a result of {} values of a version of {}", result.size(), start.size());
  }
  TG_RETURN_IF_ERROR(
      Saturate(result, saturated, [start](size_t i) { return std::abs(start[i]) >= 2.0f; }));
  SnapEach(result);
  return OkStatus();
}

}  // namespace tidegate::federation
