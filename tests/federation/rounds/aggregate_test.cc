#include "federation/rounds/aggregate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "federation/rounds/server_optimizer.h"
#include "federation/shared/delta_codec.h"
#include "federation/shared/grid.h"

namespace tidegate::federation {
namespace {

using protocols::Codec;

protocols::Layout OneTensor(uint32_t n) {
  protocols::Layout layout;
  layout.tensors.items = {{"a", 1, n, 0}};
  return layout;
}

std::vector<float> RandomValues(uint32_t stream, size_t n, double scale) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) {
    out[i] =
        SnapToGrid((UniformFloat(RandomWords(3, RngPurpose::kTest, stream, i)[0]) - 0.5) * scale);
  }
  return out;
}

Bytes Encoded(const std::vector<float>& start, const std::vector<float>& result, Codec codec) {
  protocols::UpdateHeader header;
  header.codec = codec;
  header.groups = 1;
  header.weight = 1;
  return *EncodeUpdate(header, OneTensor(static_cast<uint32_t>(start.size())), start, result, 0);
}

Bytes Encoded(const std::vector<float>& delta, Codec codec) {
  return Encoded(std::vector<float>(delta.size(), 0.0f), delta, codec);
}

// The server's step with the whole layout shared.
std::vector<float> Averaged(const WeightedSum& sum, const std::vector<float>& start, double rate) {
  ServerMoments none;
  const ServerRule rule{.learning_rate = rate};
  auto out = ServerStep(rule, start, sum.sum(), sum.total_weight(),
                        OneTensor(static_cast<uint32_t>(start.size())), 1, &none);
  EXPECT_TRUE(out.has_value()) << out.error().ToString();
  return out ? *out : std::vector<float>();
}

TEST(WeightedSum, OneSiteWithFixed32GivesItsResultBitForBit) {
  const size_t n = 5000;
  const auto start = RandomValues(1, n, 0.2), result = RandomValues(2, n, 0.2);
  const Bytes bytes = Encoded(start, result, Codec::kFixed32);
  WeightedSum sum(n);
  ASSERT_TRUE(sum.Add(*protocols::UpdateView::Parse(bytes, OneTensor(n)), 17).ok());
  EXPECT_EQ(Averaged(sum, start, 1.0), result);
}

TEST(WeightedSum, DoesNotDependOnTheOrderAndEqualsDoubleArithmetic) {
  const size_t n = 1000;
  std::vector<Bytes> updates;
  std::vector<std::vector<float>> deltas;
  const uint32_t weights[] = {1, 65536, 300};
  for (uint32_t s = 0; s < 3; ++s) {
    deltas.push_back(RandomValues(10 + s, n, 0.05));
    updates.push_back(Encoded(deltas.back(), Codec::kInt8));
  }
  const auto layout = OneTensor(n);
  WeightedSum forward(n), backward(n);
  for (int s = 0; s < 3; ++s) {
    ASSERT_TRUE(forward.Add(*protocols::UpdateView::Parse(updates[s], layout), weights[s]).ok());
    const int r = 2 - s;
    ASSERT_TRUE(backward.Add(*protocols::UpdateView::Parse(updates[r], layout), weights[r]).ok());
  }
  const auto start = RandomValues(5, n, 0.1);
  const auto a = Averaged(forward, start, 1.0), b = Averaged(backward, start, 1.0);
  EXPECT_EQ(a, b);
  for (size_t i = 0; i < n; ++i) {
    double mean = 0;
    for (int s = 0; s < 3; ++s) mean += static_cast<double>(deltas[s][i]) * weights[s] / 65837.0;
    EXPECT_NEAR(a[i], start[i] + mean, 0.025 / 127 * 1.01);
  }
}

// Numbers of every codec, by hand: halves of the grid's step too, where ties go to even.
TEST(WeightedSum, AddsWhatEachCodecSaysAsDoubleArithmeticDoes) {
  const size_t n = 301;
  const uint32_t weights[] = {1, 65536, 777};
  for (const Codec codec : {Codec::kFixed32, Codec::kInt8, Codec::kBf16, Codec::kInt4}) {
    SCOPED_TRACE(protocols::CodecName(codec));
    WeightedSum sum(n);
    std::vector<int64_t> expected(n, 0);
    for (uint32_t s = 0; s < 3; ++s) {
      const double size = s == 0 ? 0x1p-22 : s == 1 ? 0.05 : 30.0;
      auto delta = RandomValues(20 + s, n, codec == Codec::kFixed32 ? size / 4 : size);
      if (s == 0 && codec == Codec::kBf16) {
        delta[7] = 0x1p-33f, delta[8] = 0x3p-33f, delta[9] = -0x3p-33f, delta[10] = 0x5p-33f;
      }
      const Bytes bytes = Encoded(delta, codec);
      const auto view = *protocols::UpdateView::Parse(bytes, OneTensor(n));
      ASSERT_TRUE(sum.Add(view, weights[s]).ok());
      size_t next = 0;
      for (const auto& tensor : view.tensors()) {
        protocols::ForEachValue(tensor, [&](uint64_t i, double value) {
          EXPECT_EQ(i, next++);
          expected[i] += static_cast<int64_t>(std::nearbyint(value * 0x1p32)) * weights[s];
        });
      }
      EXPECT_EQ(next, n);
    }
    EXPECT_EQ(std::vector<int64_t>(sum.sum().begin(), sum.sum().end()), expected);
    const auto start = RandomValues(5, n, 0.1);
    const auto average = Averaged(sum, start, 0.5);
    for (size_t i = 0; i < n; ++i) {
      const double mean = static_cast<double>(expected[i]) * 0x1p-32 / (1 + 65536 + 777);
      EXPECT_NEAR(average[i], start[i] + 0.5 * mean, 0x1p-23);
    }
  }
}

TEST(WeightedSum, IsBounded) {
  const Bytes bytes = Encoded(std::vector<float>(4, 0.0f), Codec::kInt8);
  const auto view = *protocols::UpdateView::Parse(bytes, OneTensor(4));
  WeightedSum sum(4);
  EXPECT_EQ(sum.Add(view, 0).code(), Code::kInvalidArgument);
  EXPECT_EQ(sum.Add(view, protocols::kMaxWeight + 1).code(), Code::kInvalidArgument);
  for (uint32_t i = 0; i < protocols::kMaxContributions; ++i) {
    ASSERT_TRUE(sum.Add(view, protocols::kMaxWeight).ok());
  }
  EXPECT_EQ(sum.total_weight(), kMaxTotalWeight);
  EXPECT_EQ(sum.Add(view, 1).code(), Code::kResourceExhausted);
  WeightedSum small(3);
  EXPECT_FALSE(small.Add(view, 1).ok());
  EXPECT_EQ(small.total_weight(), 0u) << "nothing was added";
}

}  // namespace
}  // namespace tidegate::federation
