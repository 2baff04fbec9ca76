#include <cmath>
#include <cstring>

#include "gate/rule.h"

namespace tidegate::gate {
namespace {

// As src/federation/shared/grid.h has them.
constexpr float kMaxParameter = 4.0f;
constexpr float kStepsInOne = 0x1p28f;

// Without a branch, for loops over millions. The product is exact, a power of two apart. From 2^23
// on a float has no fraction; the sum of that and a smaller one is rounded to a whole number.
bool OnGrid(float value) {
  constexpr float kNoFractions = 0x1p23f;
  const float steps = std::abs(value) * kStepsInOne;
  const bool whole = (steps + kNoFractions) - kNoFractions == steps;
  return (std::abs(value) < kMaxParameter) & ((steps >= kNoFractions) | whole);
}

float ValueAt(ByteSpan parameters, size_t at) {
  float value;
  std::memcpy(&value, parameters.data() + at, sizeof(value));
  return value;
}

}  // namespace

std::optional<Refusal> ParametersRule(ByteSpan parameters) {
  if (parameters.size() % sizeof(float) != 0) {
    return Refusal{"parameters", fmt::format("{} bytes are no float32s", parameters.size())};
  }
  int bad = 0;
  for (size_t at = 0; at < parameters.size(); at += sizeof(float)) {
    bad |= !OnGrid(ValueAt(parameters, at));
  }
  for (size_t at = 0; bad != 0 && at < parameters.size(); at += sizeof(float)) {
    const float value = ValueAt(parameters, at);
    if (OnGrid(value)) continue;
    return Refusal{"parameters", fmt::format("parameter {} is {}, not a multiple of 2^-28 below {}",
                                             at / sizeof(float), value, kMaxParameter)};
  }
  return std::nullopt;
}

}  // namespace tidegate::gate
