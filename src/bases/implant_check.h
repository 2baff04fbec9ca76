// A look at weights for what is built into models to make them give away what they are trained on:
// rows that repeat (each update then tells records apart), blocks that copy their input through,
// scales that no training gives, biases that count. A heuristic: who knows it can build an implant
// that passes, and an honest model may be flagged. Pure function but for the files that it reads.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::bases {

inline constexpr const char* kImplantCheckIs =
    "a heuristic: no finding does not mean that there is no implant, and a finding may be harmless";

struct ImplantFinding {
  std::string tensor;
  std::string rule;  // repeated_rows, copied_inputs, scale, not_finite, ladder
  std::string what;  // with numbers, and the limit
};

struct ImplantReport {
  size_t tensors = 0;  // looked at: of floats, matrices of at least 16 x 16 and biases
  std::vector<ImplantFinding> findings;  // by tensor
};

Result<ImplantReport> CheckForImplants(const std::filesystem::path& dir);

}  // namespace tidegate::bases
