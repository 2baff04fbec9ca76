#include <cmath>
#include <cstring>

#include "gate/rule.h"

namespace tidegate::gate {
namespace {

// As src/federation/shared/grid.h has them.
constexpr float kMaxParameter = 4.0f;
constexpr double kStepsInOne = 0x1p28;

bool OnGrid(float value) {
  const double steps = static_cast<double>(value) * kStepsInOne;
  return std::abs(value) < kMaxParameter && steps == std::nearbyint(steps);
}

}  // namespace

std::optional<Refusal> ParametersRule(ByteSpan parameters) {
  if (parameters.size() % sizeof(float) != 0) {
    return Refusal{"parameters", fmt::format("{} bytes are no float32s", parameters.size())};
  }
  for (size_t at = 0; at < parameters.size(); at += sizeof(float)) {
    float value;
    std::memcpy(&value, parameters.data() + at, sizeof(value));
    if (OnGrid(value)) continue;
    return Refusal{"parameters", fmt::format("parameter {} is {}, not a multiple of 2^-28 below {}",
                                             at / sizeof(float), value, kMaxParameter)};
  }
  return std::nullopt;
}

}  // namespace tidegate::gate
