#include "federation/shared/grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <limits>

#include "base/rng.h"

namespace tidegate::federation {
namespace {

// As the rule says it, one value at a time.
float Reference(double value) {
  return static_cast<float>(std::nearbyint(value * 0x1p28) * 0x1p-28);
}

TEST(SnapToGrid, IsTheNearestOnTheGridWithTiesToEvenAndKeepsTheSignOfZero) {
  const double cases[] = {0.0,
                          -0.0,
                          0x1p-29,
                          0x3p-29,
                          -0x1p-29,
                          -0x3p-29,
                          0x1p-30,
                          -0x1p-300,
                          1.0 / 3,
                          -2.0 / 3,
                          3.999999,
                          -4.0,
                          7.99999,
                          0x1p22,
                          0x1p23,
                          0x1p24 + 1,
                          -0x1p40,
                          1e300,
                          -1e38,
                          std::numeric_limits<double>::infinity(),
                          0x1.fffffffffffffp22};
  for (const double value : cases) {
    EXPECT_EQ(std::bit_cast<uint32_t>(SnapToGrid(value)), std::bit_cast<uint32_t>(Reference(value)))
        << value;
  }
  EXPECT_TRUE(std::isnan(SnapToGrid(std::numeric_limits<double>::quiet_NaN())));
  for (uint64_t i = 0; i < 100'000; ++i) {
    const auto words = RandomWords(5, RngPurpose::kTest, 0, i);
    const double sign = (words[1] & 1) != 0 ? 1 : -1;
    // Of every size from far below the grid to far beyond what a parameter may be.
    const double value = sign * std::ldexp(1 + words[0] * 0x1p-32, static_cast<int>(i % 60) - 40);
    ASSERT_EQ(std::bit_cast<uint32_t>(SnapToGrid(value)), std::bit_cast<uint32_t>(Reference(value)))
        << value;
  }
}

TEST(SnapAllToGrid, GivesTheBitsOfSnapToGridForEverySignAndExponent) {
  std::vector<float> values;
  for (uint32_t high = 0; high < 512; ++high) {
    for (uint32_t i = 0; i < 1024; ++i) {
      const uint32_t mantissa = i < 512 ? i : i * 0x9e3779b1u >> 9;
      const auto value = std::bit_cast<float>(high << 23 | mantissa);
      if (std::abs(value) < 4.0f) values.push_back(value);
    }
  }
  std::vector<float> snapped = values;
  ASSERT_TRUE(SnapAllToGrid(snapped).ok());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(snapped[i]), std::bit_cast<uint32_t>(SnapToGrid(values[i])))
        << values[i];
  }
}

TEST(SnapAllToGrid, NamesTheFirstThatIsTooLargeOrNoNumber) {
  std::vector<float> values(1000, 0.1f);
  ASSERT_TRUE(SnapAllToGrid(values).ok());
  EXPECT_EQ(values[999], Reference(0.1f));
  values[700] = std::numeric_limits<float>::quiet_NaN();
  values[300] = -4.0f;
  const Status status = SnapAllToGrid(values);
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("parameter 300 is -4"));
  values[300] = 0;
  EXPECT_THAT(std::string(SnapAllToGrid(values).message()), ::testing::HasSubstr("700"));
}

TEST(SaturateAllToGrid, PutsWhatIsBeyondTheGridAtItsEndAndCountsIt) {
  EXPECT_EQ(kLargestOnGrid, std::nextafter(4.0f, 0.0f));
  EXPECT_EQ(SnapToGrid(double{kLargestOnGrid}), kLargestOnGrid);
  std::vector<float> values(1000, 0.1f);
  size_t saturated = 7;
  ASSERT_TRUE(SaturateAllToGrid(values, &saturated).ok());
  EXPECT_EQ(saturated, 0u);
  EXPECT_EQ(values[999], Reference(0.1f));
  values[10] = 4.0f;
  values[20] = -32.5f;
  values[30] = -std::numeric_limits<float>::infinity();
  values[40] = kLargestOnGrid;
  values[50] = 0.1f;
  ASSERT_TRUE(SaturateAllToGrid(values, &saturated).ok());
  EXPECT_EQ(saturated, 3u);
  EXPECT_EQ(values[10], kLargestOnGrid);
  EXPECT_EQ(values[20], -kLargestOnGrid);
  EXPECT_EQ(values[30], -kLargestOnGrid);
  EXPECT_EQ(values[40], kLargestOnGrid);
  EXPECT_EQ(values[50], Reference(0.1f)) << "the others are snapped";
  EXPECT_TRUE(SnapAllToGrid(values).ok()) << "a site takes it";
  values[60] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(std::string(SaturateAllToGrid(values, &saturated).message()),
              ::testing::HasSubstr("parameter 60 is nan"));
}

TEST(SnapResultToGrid, SaturatesWhereTheVersionWasNearTheEndAndRefusesElsewhere) {
  std::vector<float> start = {kLargestOnGrid, -2.0f, 1.99f, 0.1f};
  std::vector<float> result = {4.25f, -5.0f, 3.5f, 0.1f};
  size_t saturated = 0;
  ASSERT_TRUE(SnapResultToGrid(start, result, &saturated).ok());
  EXPECT_EQ(saturated, 2u);
  EXPECT_EQ(result, (std::vector<float>{kLargestOnGrid, -kLargestOnGrid, 3.5f, Reference(0.1f)}));
  result[2] = 4.0f;
  EXPECT_THAT(std::string(SnapResultToGrid(start, result, &saturated).message()),
              ::testing::HasSubstr("parameter 2 is 4"));
  result[2] = 0;
  result[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(SnapResultToGrid(start, result, &saturated).code(), Code::kFailedPrecondition);
  EXPECT_EQ(SnapResultToGrid(std::span(start).first(3), result, &saturated).code(),
            Code::kInternal);
}

}  // namespace
}  // namespace tidegate::federation
