#include "federation/shared/delta_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "federation/shared/grid.h"
#include "tests/protocols/update_sample.h"

namespace tidegate::federation {
namespace {

using protocols::Codec;

protocols::Layout TwoTensors() {
  protocols::Layout layout;
  layout.tensors.items = {{"a", 4, 100, 0}, {"b", 37, 4, 1}};
  return layout;
}

std::vector<float> RandomDelta(size_t n, double scale) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) {
    const auto words = RandomWords(7, RngPurpose::kTest, 0, i);
    out[i] = SnapToGrid((UniformFloat(words[0]) - 0.5) * scale);
  }
  return out;
}

const std::vector<float>& Zeros() {
  static const std::vector<float> zeros(548, 0.0f);
  return zeros;
}

protocols::UpdateHeader Header(Codec codec, uint8_t groups) {
  protocols::UpdateHeader header;
  header.codec = codec;
  header.groups = groups;
  header.weight = 3;
  header.round = 2;
  return header;
}

std::vector<double> DecodeAll(const Bytes& bytes, const protocols::Layout& layout, size_t n) {
  auto view = protocols::UpdateView::Parse(bytes, layout);
  EXPECT_TRUE(view.has_value()) << view.error().reason;
  std::vector<double> out(n, 0.0);
  for (const auto& t : view->tensors()) {
    protocols::ForEachValue(t, [&](uint64_t i, double v) { out[i] = v; });
  }
  return out;
}

TEST(Grid, SnapIsIdempotentAndKeepsWhatIsOnIt) {
  for (uint32_t i = 0; i < 20000; ++i) {
    const auto words = RandomWords(1, RngPurpose::kTest, 1, i);
    const double x =
        (UniformFloat(words[0]) - 0.5) * std::pow(2.0, -static_cast<int>(words[1] % 24)) * 4;
    const float snapped = SnapToGrid(x);
    EXPECT_EQ(SnapToGrid(snapped), snapped);
    EXPECT_EQ(std::fmod(static_cast<double>(snapped) * 0x1p28, 1.0), 0.0);
    EXPECT_LE(std::abs(snapped - x), 0x1p-29 + std::abs(x) * 0x1p-24);
  }
  std::vector<float> bad = {0.0f, 5.0f};
  EXPECT_EQ(SnapAllToGrid(bad).code(), Code::kFailedPrecondition);
  bad[1] = NAN;
  EXPECT_EQ(SnapAllToGrid(bad).code(), Code::kFailedPrecondition);
}

TEST(DeltaCodec, Fixed32IsExact) {
  const auto layout = TwoTensors();
  const auto delta = RandomDelta(548, 0.1);
  auto bytes = EncodeUpdate(Header(Codec::kFixed32, 3), layout, Zeros(), delta, 0);
  ASSERT_TRUE(bytes.has_value());
  const auto values = DecodeAll(*bytes, layout, delta.size());
  for (size_t i = 0; i < delta.size(); ++i) EXPECT_EQ(values[i], delta[i]);
  auto off_grid = delta;
  off_grid[5] = 1e-9f;
  EXPECT_EQ(EncodeUpdate(Header(Codec::kFixed32, 3), layout, Zeros(), off_grid, 0).error().code(),
            Code::kInvalidArgument);
}

TEST(DeltaCodec, Int8ErrorIsAtMostHalfAStepOfItsGroup) {
  const auto layout = TwoTensors();
  const auto delta = RandomDelta(548, 0.01);
  auto bytes = EncodeUpdate(Header(Codec::kInt8, 3), layout, Zeros(), delta, 0);
  ASSERT_TRUE(bytes.has_value());
  // 400 values: 2 groups; 148: 1 group. One byte a value, four a group.
  EXPECT_EQ(bytes->size(), protocols::kUpdateHeaderBytes + 8 + 400 + 4 + 148);
  const auto values = DecodeAll(*bytes, layout, delta.size());
  for (size_t i = 0; i < delta.size(); ++i) {
    EXPECT_NEAR(values[i], delta[i], 0.005 / 127 / 2 * 1.0001);
  }
}

// protocols/vectors/v1: made by another program from the page alone.
TEST(DeltaCodec, UpdatesAreTheirGoldenBytes) {
  for (const auto& [name, codec] : protocols::kGoldenUpdates) {
    const auto golden = protocols::VectorBytes(name);
    ASSERT_FALSE(golden.empty()) << name;
    const protocols::Layout layout = protocols::GoldenLayout();
    // tests/crypto has hashes; here the digest is taken as it came.
    const auto digest = protocols::UpdateView::Parse(golden, layout)->header().layout_digest;
    const auto values = protocols::GoldenValues(codec);
    const std::vector<float> result(values.begin(), values.end());
    const auto bytes = EncodeUpdate(protocols::GoldenHeader(codec, digest), layout,
                                    std::vector<float>(result.size(), 0.0f), result, 0);
    ASSERT_TRUE(bytes.has_value()) << bytes.error().ToString();
    EXPECT_EQ(ToHex(*bytes), ToHex(golden)) << name;
  }
}

TEST(DeltaCodec, ASubsetHoldsOnlyItsGroup) {
  const auto layout = TwoTensors();
  const auto delta = RandomDelta(548, 0.01);
  auto bytes = EncodeUpdate(Header(Codec::kInt8, 2), layout, Zeros(), delta, 0);
  ASSERT_TRUE(bytes.has_value());
  const auto values = DecodeAll(*bytes, layout, delta.size());
  for (size_t i = 0; i < 400; ++i) EXPECT_EQ(values[i], 0.0);
  EXPECT_NE(values[401], 0.0);
}

TEST(DeltaCodec, TheEncodedNormIsWithinTheClip) {
  const auto layout = TwoTensors();
  const auto delta = RandomDelta(548, 1.0);
  for (const Codec codec : {Codec::kInt8, Codec::kBf16, Codec::kInt4}) {
    for (const double clip : {5.0, 1.0, 0.01}) {
      std::vector<double> scaled(delta.begin(), delta.end());
      auto bytes = EncodeDelta(Header(codec, 3), layout, scaled,
                               {.norm_clip = clip, .rounding = protocols::Rounding::kStochastic});
      ASSERT_TRUE(bytes.has_value());
      const double norm = protocols::UpdateView::Parse(*bytes, layout)->L2Norm();
      EXPECT_LE(norm, clip);
      EXPECT_GE(norm, clip * 0.95);
      // What is left is the same direction.
      EXPECT_NEAR(scaled[100] / delta[100], scaled[500] / delta[500], 1e-12);
    }
  }
}

TEST(DeltaCodec, RefusesWhatIsNotFiniteAndWhatIsTooLarge) {
  const auto layout = TwoTensors();
  for (const Codec codec : {Codec::kInt8, Codec::kBf16, Codec::kInt4}) {
    for (const float bad : {INFINITY, NAN, 32.0f}) {
      auto delta = RandomDelta(548, 1.0);
      delta[17] = bad;
      EXPECT_EQ(EncodeUpdate(Header(codec, 3), layout, Zeros(), delta, 0).error().code(),
                Code::kFailedPrecondition)
          << protocols::CodecName(codec) << " " << bad;
    }
  }
}

TEST(UpdateView, EveryFlippedHeaderByteAndEveryLengthIsRefusedOrSeen) {
  const auto layout = TwoTensors();
  const auto delta = RandomDelta(548, 0.1);
  const Bytes good = *EncodeUpdate(Header(Codec::kInt8, 3), layout, Zeros(), delta, 0);
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_FALSE(protocols::UpdateView::Parse(ByteSpan(good).first(n), layout).has_value()) << n;
  }
  Bytes longer = good;
  longer.push_back(0);
  EXPECT_FALSE(protocols::UpdateView::Parse(longer, layout).has_value());
  Bytes bad_scale = good;
  const float nan = NAN;
  std::memcpy(bad_scale.data() + protocols::kUpdateHeaderBytes, &nan, 4);
  EXPECT_FALSE(protocols::UpdateView::Parse(bad_scale, layout).has_value());
  Bytes bad_value = good;
  bad_value[protocols::kUpdateHeaderBytes + 8 + 3] = 0x80;
  EXPECT_FALSE(protocols::UpdateView::Parse(bad_value, layout).has_value());
  // Magic, version, reserved zeros, counts: a flip is refused. Ids are the rules' business.
  for (const size_t at : {0, 1, 2, 3, 4, 5, 7}) {
    Bytes flipped = good;
    flipped[at] ^= 0x40;
    EXPECT_FALSE(protocols::UpdateView::Parse(flipped, layout).has_value()) << at;
  }
}

}  // namespace
}  // namespace tidegate::federation
