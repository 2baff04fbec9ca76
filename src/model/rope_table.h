// Cosines and sines of rotary embedding by position. Angles are formed in double and rounded once,
// so that late positions keep their precision. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/config.h"

namespace tidegate::model {

// [head_dim / 2], after scaling by the configured type.
std::vector<double> InverseFrequencies(const ModelConfig& config);

// Rows are computed once, up to the last position asked for.
class RopeTable {
 public:
  explicit RopeTable(const ModelConfig& config)
      : frequencies_(InverseFrequencies(config)), factor_(config.rope.attention_factor) {}

  // Writes the rows of `positions` (each at least 0), [positions.size(), head_dim / 2].
  void Fill(std::span<const int32_t> positions, float* cos, float* sin);

 private:
  void GrowTo(size_t rows);

  std::vector<double> frequencies_;
  double factor_;
  std::vector<float> cos_, sin_;
  size_t rows_ = 0;
};

}  // namespace tidegate::model
