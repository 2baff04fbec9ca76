#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <optional>

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

// YaRN: dimensions that the original positions turn often are kept, those they turn less than
// beta_slow times divided by `factor`, a ramp over dimensions between.
class YarnRamp {
 public:
  YarnRamp(const RopeConfig& rope, int64_t head_dim)
      : rope_(rope), dim_(static_cast<double>(head_dim)) {
    low_ = Dimension(rope.beta_fast);
    high_ = Dimension(rope.beta_slow);
    if (rope.truncate) {
      low_ = std::floor(low_);
      high_ = std::ceil(high_);
    }
    low_ = std::max(low_, 0.0);
    high_ = std::min(high_, dim_ - 1);
    if (low_ == high_) high_ += 0.001;
  }
  double Scaled(double frequency, size_t i) const {
    const double ramp = std::clamp((static_cast<double>(i) - low_) / (high_ - low_), 0.0, 1.0);
    return frequency / rope_.factor * ramp + frequency * (1.0 - ramp);
  }

 private:
  // Of the frequency that turns `rotations` times within the original positions.
  double Dimension(double rotations) const {
    const double positions = static_cast<double>(rope_.original_max_positions);
    return dim_ * std::log(positions / (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope_.theta));
  }

  const RopeConfig& rope_;
  double dim_, low_, high_;
};

}  // namespace

std::vector<double> InverseFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies(static_cast<size_t>(config.head_dim / 2));
  std::optional<YarnRamp> yarn;
  if (config.rope.type == RopeType::kYarn) yarn.emplace(config.rope, config.head_dim);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double f = std::pow(config.rope.theta,
                        -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (config.rope.type == RopeType::kLinear) f /= config.rope.factor;
    if (config.rope.type == RopeType::kLlama3) f = Llama3Scaled(f, config.rope);
    if (yarn) f = yarn->Scaled(f, i);
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
      cos_[position * half + i] = static_cast<float>(factor_ * std::cos(angle));
      sin_[position * half + i] = static_cast<float>(factor_ * std::sin(angle));
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
