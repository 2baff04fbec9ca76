#include "model/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace tidegate::model {
namespace {

ModelConfig Config(RopeType type) {
  ModelConfig config;
  config.head_dim = 64;
  config.rope.type = type;
  config.rope.theta = 100000.0;
  return config;
}

// SmolLM2's far positions: an angle formed in f32 would be off by 1e-3 there.
TEST(RopeTable, FarPositionsKeepTheirPrecision) {
  RopeTable table(Config(RopeType::kDefault));
  const std::vector<int32_t> positions = {0, 15962, 1};
  std::vector<float> cos(3 * 32), sin(3 * 32);
  table.Fill(positions, cos.data(), sin.data());
  for (size_t row = 0; row < 3; ++row) {
    for (size_t i = 0; i < 32; ++i) {
      const double angle = positions[row] / std::pow(100000.0, static_cast<double>(i) / 32.0);
      EXPECT_NEAR(static_cast<double>(cos[row * 32 + i]), std::cos(angle), 1e-7) << row << " " << i;
      EXPECT_NEAR(static_cast<double>(sin[row * 32 + i]), std::sin(angle), 1e-7) << row << " " << i;
    }
  }
}

// A row does not depend on which rows were asked for before it.
TEST(RopeTable, RowsAreTheSameWheneverTheyAreMade) {
  RopeTable grown(Config(RopeType::kDefault)), direct(Config(RopeType::kDefault));
  const std::vector<int32_t> few = {3}, many = {3, 900};
  std::vector<float> cos(64), sin(64), other_cos(64), other_sin(64);
  grown.Fill(few, cos.data(), sin.data());
  grown.Fill(many, cos.data(), sin.data());
  direct.Fill(many, other_cos.data(), other_sin.data());
  EXPECT_EQ(cos, other_cos);
  EXPECT_EQ(sin, other_sin);
}

TEST(RopeTable, LinearScalingDividesEveryFrequency) {
  ModelConfig config = Config(RopeType::kLinear);
  config.rope.factor = 4.0;
  const auto plain = InverseFrequencies(Config(RopeType::kDefault));
  const auto scaled = InverseFrequencies(config);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 4.0);
}

// Llama 3: short waves as they are, long ones divided, between them neither.
TEST(RopeTable, Llama3ScalingHasThreeBands) {
  ModelConfig config = Config(RopeType::kLlama3);
  config.rope.factor = 8.0;
  config.rope.low_freq_factor = 1.0;
  config.rope.high_freq_factor = 4.0;
  config.rope.original_max_positions = 8192;
  const auto plain = InverseFrequencies(Config(RopeType::kDefault));
  const auto scaled = InverseFrequencies(config);
  int kept = 0, ramp = 0, divided = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2.0 * std::numbers::pi / plain[i];
    if (wavelength < 8192.0 / 4.0) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 8.0);
      ++divided;
    } else {
      EXPECT_GT(scaled[i], plain[i] / 8.0);
      EXPECT_LT(scaled[i], plain[i]);
      ++ramp;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(ramp, 0);
  EXPECT_GT(divided, 0);
}

}  // namespace
}  // namespace tidegate::model
