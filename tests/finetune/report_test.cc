#include <gtest/gtest.h>

#include "finetune/dataset.h"

namespace tidegate::finetune {
namespace {

TEST(DataReport, PercentilesAreLengthsThatAreThere) {
  EXPECT_EQ(LengthPercentile({}, 50), 0);
  EXPECT_EQ(LengthPercentile({{7, 1}}, 50), 7);
  EXPECT_EQ(LengthPercentile({{7, 1}, {9, 1}}, 50), 7);
  EXPECT_EQ(LengthPercentile({{7, 1}, {9, 1}}, 51), 9);
  const std::map<int64_t, int64_t> lengths = {{1, 50}, {2, 40}, {30, 9}, {400, 1}};
  EXPECT_EQ(LengthPercentile(lengths, 50), 1);
  EXPECT_EQ(LengthPercentile(lengths, 90), 2);
  EXPECT_EQ(LengthPercentile(lengths, 99), 30);
  EXPECT_EQ(LengthPercentile(lengths, 100), 400);
}

}  // namespace
}  // namespace tidegate::finetune
