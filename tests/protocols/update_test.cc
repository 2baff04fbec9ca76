// What the parser of updates refuses: there is one byte string for one update.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "update_sample.h"

namespace tidegate::protocols {
namespace {

constexpr size_t kBody = kUpdateHeaderBytes;

class Refused : public testing::TestWithParam<GoldenUpdate> {
 protected:
  Refused() : good_(VectorBytes(GetParam().name)), values_(Values(good_)) {}

  // Nothing when it is refused.
  static std::vector<double> Values(const std::vector<uint8_t>& bytes) {
    const auto view = UpdateView::Parse(bytes, GoldenLayout());
    std::vector<double> values;
    if (!view) return values;
    values.assign(263, 0.0);
    for (const UpdateTensor& t : view->tensors()) {
      ForEachValue(t, [&values](uint64_t i, double value) { values[i] = value; });
    }
    return values;
  }

  std::vector<uint8_t> good_;
  std::vector<double> values_;
};

TEST_P(Refused, EveryLengthButItsOwn) {
  ASSERT_EQ(values_.size(), 263u);
  for (size_t n = 0; n < good_.size(); ++n) {
    EXPECT_FALSE(UpdateView::Parse(std::span(good_).first(n), GoldenLayout()).has_value()) << n;
  }
  good_.push_back(0);
  EXPECT_TRUE(Values(good_).empty());
}

// No flip anywhere leaves the numbers as they are and is taken: that would be a second byte string
// for the same update. Of the header what is not the reader's to judge (ids, names, losses) may
// change.
TEST_P(Refused, EveryOtherByteIsRefusedOrIsAnotherNumber) {
  int refused = 0;
  for (size_t at = kBody; at < good_.size(); ++at) {
    for (unsigned value = 0; value < 256; ++value) {
      if (value == good_[at]) continue;
      std::vector<uint8_t> bytes = good_;
      bytes[at] = static_cast<uint8_t>(value);
      const std::vector<double> values = Values(bytes);
      refused += values.empty() ? 1 : 0;
      ASSERT_NE(values, values_) << "byte " << at << " as " << value;
      for (const double x : values) ASSERT_LT(std::abs(x), kMaxUpdateValue);
    }
  }
  EXPECT_EQ(refused == 0, GetParam().codec == Codec::kFixed32) << "every int32 is a number";
  // Magic, version, reserved bytes, codec, groups, counts.
  for (const size_t at : {0, 1, 2, 3, 4, 5, 7, 28, 29, 30, 31, 160, 163, 168, 175, 184, 207}) {
    for (unsigned flip = 1; flip < 256; ++flip) {
      std::vector<uint8_t> bytes = good_;
      bytes[at] ^= static_cast<uint8_t>(flip);
      ASSERT_TRUE(Values(bytes).empty()) << "header byte " << at << " by " << flip;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Codecs, Refused, testing::ValuesIn(kGoldenUpdates),
                         [](const auto& golden) {
                           return std::string(CodecName(golden.param.codec));
                         });

// One tensor of so many values.
std::vector<uint8_t> OneTensor(Codec codec, uint32_t count) {
  Layout layout;
  layout.tensors.items = {{"t", 1, count, 0}};
  UpdateHeader header;
  header.codec = codec;
  header.groups = 1;
  header.tensors = 1;
  header.values = count;
  header.weight = 1;
  std::vector<uint8_t> bytes(UpdateBytes(layout, 1, codec), 0);
  WriteUpdateHeader(header, bytes.data());
  return bytes;
}

std::string WhyNot(const std::vector<uint8_t>& bytes, uint32_t count) {
  Layout layout;
  layout.tensors.items = {{"t", 1, count, 0}};
  const auto view = UpdateView::Parse(bytes, layout);
  return view ? "" : view.error().reason;
}

TEST(Int4, OnlyCanonicalGroupsAreTaken) {
  const auto with = [](float scale, std::vector<uint8_t> q) {
    std::vector<uint8_t> bytes = OneTensor(Codec::kInt4, 3);
    std::memcpy(bytes.data() + kBody, &scale, 4);
    std::copy(q.begin(), q.end(), bytes.begin() + kBody + 4);
    return WhyNot(bytes, 3);
  };
  EXPECT_EQ(with(0.5f, {0x97, 0x02}), "") << "7, -7, 2";
  EXPECT_EQ(with(0.0f, {0, 0}), "");
  EXPECT_NE(with(0.5f, {0x87, 0x02}).find("-8; the range is -7 … 7"), std::string::npos);
  EXPECT_NE(with(0.5f, {0x78, 0x02}).find("-8"), std::string::npos);
  EXPECT_NE(with(0.5f, {0x97, 0x12}).find("padding"), std::string::npos) << "the odd tail";
  EXPECT_NE(with(0.5f, {0x97, 0x02, 1}).find("padding"), std::string::npos);
  EXPECT_NE(with(0.5f, {0x66, 0x02}).find("its scale could be smaller"), std::string::npos);
  EXPECT_NE(with(0.5f, {0, 0}).find("its scale could be smaller"), std::string::npos);
  EXPECT_NE(with(0.0f, {1, 0}).find("scale 0 has numbers"), std::string::npos);
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {-0.0f, -0.5f, 0x0.fffffep-40f, 64.0f / 7, inf, std::nanf("")}) {
    EXPECT_NE(with(bad, {0x97, 0x02}).find("a scale is not"), std::string::npos) << bad;
  }
  EXPECT_EQ(with(0x1p-40f, {0x97, 0x02}), "");
  EXPECT_EQ(with(9.142856f, {0x97, 0x02}), "");
}

TEST(Int8, OnlyCanonicalGroupsAreTaken) {
  const auto with = [](float scale, std::vector<uint8_t> q) {
    std::vector<uint8_t> bytes = OneTensor(Codec::kInt8, 3);
    std::memcpy(bytes.data() + kBody, &scale, 4);
    std::copy(q.begin(), q.end(), bytes.begin() + kBody + 4);
    return WhyNot(bytes, 3);
  };
  EXPECT_EQ(with(0.25f, {127, 1, 0x81}), "");
  EXPECT_NE(with(0.25f, {127, 1, 0x80}).find("-128; the range is -127 … 127"), std::string::npos);
  EXPECT_NE(with(0.25f, {126, 1, 0}).find("its scale could be smaller"), std::string::npos);
  EXPECT_NE(with(0.0f, {1, 0, 0}).find("scale 0 has numbers"), std::string::npos);
  EXPECT_NE(with(0.51f, {127, 0, 0}).find("a scale is not"), std::string::npos);
  EXPECT_NE(with(0.25f, {127, 1, 0, 1}).find("padding"), std::string::npos);
}

TEST(Bf16, OfAllBitsThoseOfNumbersBelowTheLimitAreTaken) {
  int taken = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    std::vector<uint8_t> bytes = OneTensor(Codec::kBf16, 1);
    bytes[kBody] = static_cast<uint8_t>(bits);
    bytes[kBody + 1] = static_cast<uint8_t>(bits >> 8);
    const auto value = std::bit_cast<float>(bits << 16);
    const bool good = std::abs(value) < 64.0f && bits != 0x8000;
    ASSERT_EQ(WhyNot(bytes, 1).empty(), good) << std::hex << bits;
    taken += good ? 1 : 0;
  }
  EXPECT_EQ(taken, 2 * 0x4280 - 1);
  std::vector<uint8_t> bytes = OneTensor(Codec::kBf16, 1);
  bytes[kBody + 2] = 1;
  EXPECT_NE(WhyNot(bytes, 1).find("padding"), std::string::npos);
}

TEST(Update, CodecsHaveTheirNamesAndBytes) {
  EXPECT_EQ(CodecNames(), "fixed32, int8, bf16, int4");
  EXPECT_EQ(CodecOf("int4"), Codec::kInt4);
  EXPECT_EQ(CodecOf("int2"), std::nullopt);
  EXPECT_EQ(CodecOf(""), std::nullopt);
  const auto bytes = [](uint64_t n) {
    return std::vector<uint64_t>{
        UpdateTensorBytes(n, Codec::kFixed32), UpdateTensorBytes(n, Codec::kInt8),
        UpdateTensorBytes(n, Codec::kBf16), UpdateTensorBytes(n, Codec::kInt4)};
  };
  EXPECT_EQ(bytes(1), (std::vector<uint64_t>{4, 8, 4, 8}));
  EXPECT_EQ(bytes(65), (std::vector<uint64_t>{260, 4 + 68, 132, 8 + 36}));
  EXPECT_EQ(bytes(1024), (std::vector<uint64_t>{4096, 16 + 1024, 2048, 64 + 512}));
}

}  // namespace
}  // namespace tidegate::protocols
