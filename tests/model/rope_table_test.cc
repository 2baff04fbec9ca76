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

// Against transformers 5.24 (_compute_yarn_parameters): theta 1e6, factor 4, 32,768 positions.
TEST(RopeTable, YarnIsThatOfTransformers) {
  constexpr size_t kPlaces[] = {0, 5, 9, 10, 12, 14, 16, 17, 18, 20, 25, 31};
  ModelConfig config = Config(RopeType::kYarn);
  config.rope.theta = 1e6;
  config.rope.factor = 4.0;
  config.rope.original_max_positions = 32768;
  const auto expect = [&](const std::vector<double>& want) {
    const auto got = InverseFrequencies(config);
    for (size_t i = 0; i < std::size(kPlaces); ++i) {
      EXPECT_NEAR(got[kPlaces[i]], want[i], 3e-6 * want[i]) << kPlaces[i];
    }
  };
  expect({1.0, 0.11547820270061493, 0.02053525112569332, 0.01333521492779255, 0.005154795479029417,
          0.0017785303061828017, 0.0005833333707414567, 0.00032469083089381456,
          0.0001757068675942719, 4.4456985051510856e-05, 5.133812464919174e-06,
          3.8498163235090033e-07});
  config.rope.beta_fast = 16;
  config.rope.beta_slow = 2;
  config.rope.truncate = false;
  expect({1.0, 0.11547820270061493, 0.02053525112569332, 0.01333521492779255, 0.005623413249850273,
          0.002151098335161805, 0.0005956799723207951, 0.00028570491122081876,
          0.00011986687604803592, 4.4456985051510856e-05, 5.133812464919174e-06,
          3.8498163235090033e-07});
}

TEST(RopeTable, YarnsFactorIsInCosinesAndSines) {
  ModelConfig config = Config(RopeType::kYarn);
  config.rope.original_max_positions = 128;
  config.rope.attention_factor = 1.25;
  RopeTable table(config);
  std::vector<float> cos(32), sin(32);
  table.Fill(std::vector<int32_t>{0}, cos.data(), sin.data());
  for (const float value : cos) EXPECT_EQ(value, 1.25f);
  table.Fill(std::vector<int32_t>{7}, cos.data(), sin.data());
  for (size_t i = 0; i < 32; ++i) EXPECT_NEAR(std::hypot(cos[i], sin[i]), 1.25, 1e-6);
}

}  // namespace
}  // namespace tidegate::model
