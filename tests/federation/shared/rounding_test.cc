// What a codec loses: each value's bound, that rounding by chance is right in the mean, and that
// error feedback sends later what was lost.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/rng.h"
#include "federation/shared/delta_codec.h"

namespace tidegate::federation {
namespace {

using protocols::Codec;
using protocols::Rounding;

constexpr Codec kRounded[] = {Codec::kInt8, Codec::kBf16, Codec::kInt4};

double Uniform(uint32_t stream, uint64_t i) {
  return UniformFloat(RandomWords(11, RngPurpose::kTest, stream, i)[0]);
}

// Nearly normal: a sum of uniform numbers of variance 1.
double Normal(uint32_t stream, uint64_t i) {
  double sum = -6;
  for (uint64_t k = 0; k < 12; ++k) sum += Uniform(stream, i * 12 + k);
  return sum;
}

protocols::UpdateHeader Header(Codec codec, uint8_t groups, uint32_t round = 1) {
  protocols::UpdateHeader header;
  header.codec = codec;
  header.groups = groups;
  header.weight = 1;
  header.round = round;
  return header;
}

std::vector<double> Decoded(const Bytes& bytes, const protocols::Layout& layout, size_t n) {
  const auto view = protocols::UpdateView::Parse(bytes, layout);
  EXPECT_TRUE(view.has_value()) << view.error().reason;
  std::vector<double> out(n, 0.0);
  if (!view) return out;
  for (const auto& t : view->tensors()) {
    protocols::ForEachValue(t, [&](uint64_t i, double v) { out[i] = v; });
  }
  return out;
}

// The distance of neighbouring numbers of the codec, at each value of a tensor.
std::vector<double> Steps(std::span<const double> values, Codec codec) {
  std::vector<double> steps(values.size());
  const size_t group = protocols::UpdateGroup(codec);
  for (size_t i = 0; i < values.size(); ++i) {
    if (group == 0) {
      steps[i] = values[i] == 0 ? 0 : std::ldexp(1, std::max(std::ilogb(values[i]), -126) - 7);
      continue;
    }
    double most = 0;
    const size_t begin = i / group * group;
    for (size_t k = begin; k < std::min(begin + group, values.size()); ++k) {
      most = std::max(most, std::abs(values[k]));
    }
    // The scale is a float; where it would be too small the group is sent as zeros.
    const double scale = most / protocols::UpdateMaxQ(codec) * (1 + 0x1p-23);
    steps[i] = scale < 0x1p-40 ? 2 * most : scale;
  }
  return steps;
}

struct Random {
  protocols::Layout layout;
  uint8_t groups = 0;
  std::vector<double> delta;
};

// Tensors of 1 … 700 values of either group, sizes of values over forty powers of two, some zero.
Random RandomCase(uint32_t n) {
  Random out;
  const auto words = RandomWords(3, RngPurpose::kTest, 900, n);
  out.groups = static_cast<uint8_t>(1 + words[0] % 3);
  for (uint32_t t = 0; t < 2 + words[1] % 4; ++t) {
    const auto w = RandomWords(4, RngPurpose::kTest, n, t);
    const auto group = static_cast<uint8_t>(t % 2);
    const uint32_t rows = 1 + w[0] % 7, cols = 1 + w[1] % 100;
    out.layout.tensors.items.push_back({"t" + std::to_string(t), rows, cols, group});
    const double size = std::ldexp(1.0, -static_cast<int>(w[2] % 40));
    for (uint32_t i = 0; i < rows * cols; ++i) {
      const double x = Normal(n * 8 + t, i) * size;
      out.delta.push_back(w[3] % 5 == 0 || i % 17 == 3 ? 0.0 : x);
    }
  }
  return out;
}

TEST(Rounding, EveryValueOfAnyLayoutIsWithinItsBoundAndOneDeltaHasOneEncoding) {
  for (uint32_t n = 0; n < 60; ++n) {
    const Random c = RandomCase(n);
    for (const Codec codec : kRounded) {
      for (const Rounding rounding : {Rounding::kNearest, Rounding::kStochastic}) {
        SCOPED_TRACE(fmt::format("case {} {} {}", n, protocols::CodecName(codec),
                                 static_cast<int>(rounding)));
        std::vector<double> delta = c.delta;
        const EncodeOptions options{.rounding = rounding, .key = n};
        const auto bytes = EncodeDelta(Header(codec, c.groups), c.layout, delta, options);
        ASSERT_TRUE(bytes.has_value()) << bytes.error().ToString();
        EXPECT_EQ(bytes->size(), protocols::UpdateBytes(c.layout, c.groups, codec));
        const std::vector<double> values = Decoded(*bytes, c.layout, c.delta.size());
        size_t flat = 0;
        for (const auto& t : c.layout.tensors.items) {
          const size_t count = size_t{t.rows} * t.cols;
          const auto original = std::span(c.delta).subspan(flat, count);
          const std::vector<double> steps = Steps(original, codec);
          for (size_t i = 0; i < count; ++i) {
            const double value = values[flat + i];
            if (((c.groups >> t.group) & 1) == 0) {
              ASSERT_EQ(value, 0.0);
            } else if (rounding == Rounding::kNearest) {
              ASSERT_LE(std::abs(value - original[i]), steps[i] / 2 * (1 + 1e-6)) << i;
            } else {
              ASSERT_LE(std::abs(value - original[i]), steps[i]) << i;
            }
          }
          flat += count;
        }
        // What an update decodes to encodes to the same update: there is one for these values.
        std::vector<double> again = values;
        const auto same = EncodeDelta(Header(codec, c.groups), c.layout, again, options);
        ASSERT_TRUE(same.has_value());
        ASSERT_TRUE(*same == *bytes);
      }
    }
  }
}

TEST(Rounding, ByChanceItIsRightInTheMeanAndEachKeyAndRoundHasItsOwn) {
  protocols::Layout layout;
  layout.tensors.items = {{"a", 1, 150, 0}};
  std::vector<double> delta(150);
  for (size_t i = 0; i < delta.size(); ++i) delta[i] = Normal(1, i) * 0.01;
  constexpr int kTries = 4000;
  for (const Codec codec : kRounded) {
    const std::vector<double> steps = Steps(delta, codec);
    std::vector<double> sum(delta.size(), 0.0);
    std::set<std::string> seen;
    for (uint32_t n = 0; n < kTries; ++n) {
      // Half of them by key, half by round.
      const uint32_t round = n % 2 == 0 ? 1 : 1 + n;
      std::vector<double> copy = delta;
      const EncodeOptions options{.rounding = Rounding::kStochastic, .key = n % 2 == 0 ? n : 0};
      const auto bytes = EncodeDelta(Header(codec, 1, round), layout, copy, options);
      ASSERT_TRUE(bytes.has_value());
      if (n < 100) seen.insert(ToHex(ByteSpan(*bytes).subspan(protocols::kUpdateHeaderBytes)));
      const std::vector<double> values = Decoded(*bytes, layout, delta.size());
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
    }
    EXPECT_EQ(seen.size(), 100u);
    int apart = 0;
    for (size_t i = 0; i < sum.size(); ++i) {
      // A value between two numbers of the codec, at a part p of the step: the variance is
      // p (1 − p) steps².
      const double r = delta[i] / steps[i], p = r - std::floor(r);
      const double sigma = steps[i] * std::sqrt((p * (1 - p) + 1e-4) / kTries);
      EXPECT_NEAR(sum[i] / kTries, delta[i], 5 * sigma)
          << protocols::CodecName(codec) << " value " << i;
      apart += std::abs(delta[i] - std::nearbyint(r) * steps[i]) > 5 * sigma ? 1 : 0;
    }
    EXPECT_GT(apart, 50) << "rounded to the nearest, the mean would not be within these bounds";
  }
}

// Fifty rounds of one site: with error feedback the sum of what was sent is the sum of what was
// meant, within a step of the last round. Without, int4 to the nearest loses what is small in its
// group, round after round.
class Feedback : public testing::Test {
 protected:
  static constexpr int kRounds = 50;
  static constexpr size_t kValues = 640;

  // The relative error of the sum, in L2; `*within`: whether each value is within one step.
  double ErrorOfSum(Codec codec, Rounding rounding, bool feedback, bool* within = nullptr) {
    protocols::Layout layout;
    layout.tensors.items = {{"a", 1, kValues, 0}};
    std::vector<double> residual(kValues, 0.0), meant(kValues, 0.0), sent(kValues, 0.0);
    std::vector<double> steps;
    for (uint32_t round = 1; round <= kRounds; ++round) {
      std::vector<double> v(kValues);
      for (size_t i = 0; i < kValues; ++i) {
        // A drift that is the same in each round and small beside the largest of the group.
        const double delta =
            1e-4 * Normal(1, i) + (i % 64 == 0 ? 2e-3 : 0) + 2e-5 * Normal(10 + round, i);
        meant[i] += delta;
        v[i] = delta + (feedback ? residual[i] : 0);
      }
      steps = Steps(v, codec);
      const auto bytes = EncodeDelta(Header(codec, 1, round), layout, v, {.rounding = rounding});
      EXPECT_TRUE(bytes.has_value());
      const std::vector<double> decoded = Decoded(*bytes, layout, kValues);
      for (size_t i = 0; i < kValues; ++i) {
        sent[i] += decoded[i];
        residual[i] = v[i] - decoded[i];
      }
    }
    double error = 0, whole = 0;
    if (within != nullptr) *within = true;
    for (size_t i = 0; i < kValues; ++i) {
      error += (sent[i] - meant[i]) * (sent[i] - meant[i]);
      whole += meant[i] * meant[i];
      if (within != nullptr && std::abs(sent[i] - meant[i]) > steps[i]) *within = false;
    }
    return std::sqrt(error / whole);
  }
};

TEST_F(Feedback, MakesTheSumOfManyRoundsRightWithinOneStep) {
  for (const Codec codec : kRounded) {
    for (const Rounding rounding : {Rounding::kNearest, Rounding::kStochastic}) {
      bool within = false;
      EXPECT_LT(ErrorOfSum(codec, rounding, true, &within), 0.02);
      EXPECT_TRUE(within) << protocols::CodecName(codec) << " " << static_cast<int>(rounding);
    }
  }
}

TEST_F(Feedback, WithoutItInt4ToTheNearestDrifts) {
  bool within = true;
  EXPECT_GT(ErrorOfSum(Codec::kInt4, Rounding::kNearest, false, &within), 0.2);
  EXPECT_FALSE(within);
  // By chance the error of each round is another: it grows with the root of the rounds alone.
  EXPECT_LT(ErrorOfSum(Codec::kInt4, Rounding::kStochastic, false),
            ErrorOfSum(Codec::kInt4, Rounding::kNearest, false) / 2);
}

}  // namespace
}  // namespace tidegate::federation
