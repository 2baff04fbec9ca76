#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

namespace tidegate::model {
namespace {

// Llama 3: long waves are slowed by `factor`, short ones kept, a smooth ramp between.
double Llama3Scaled(double frequency, const RopeConfig& rope) {
  const double length = static_cast<double>(rope.original_max_positions);
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  if (wavelength < length / rope.high_freq_factor) return frequency;
  if (wavelength > length / rope.low_freq_factor) return frequency / rope.factor;
  const double smooth =
      (length / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
}

}  // namespace

std::vector<double> InverseFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double f = std::pow(config.rope.theta,
                        -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (config.rope.type == RopeType::kLinear) f /= config.rope.factor;
    if (config.rope.type == RopeType::kLlama3) f = Llama3Scaled(f, config.rope);
    frequencies[i] = f;
  }
  return frequencies;
}

void RopeTable::GrowTo(size_t rows) {
  if (rows <= rows_) return;
  const size_t half = frequencies_.size();
  rows = std::max(rows, rows_ * 2);
  cos_.resize(rows * half);
  sin_.resize(rows * half);
  for (size_t position = rows_; position < rows; ++position) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies_[i];
      cos_[position * half + i] = static_cast<float>(std::cos(angle));
      sin_[position * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  rows_ = rows;
}

void RopeTable::Fill(std::span<const int32_t> positions, float* cos, float* sin) {
  if (positions.empty()) return;
  GrowTo(static_cast<size_t>(*std::max_element(positions.begin(), positions.end())) + 1);
  const size_t half = frequencies_.size();
  for (size_t row = 0; row < positions.size(); ++row) {
    const size_t at = static_cast<size_t>(positions[row]) * half;
    std::memcpy(cos + row * half, cos_.data() + at, half * sizeof(float));
    std::memcpy(sin + row * half, sin_.data() + at, half * sizeof(float));
  }
}

}  // namespace tidegate::model
