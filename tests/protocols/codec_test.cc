#include "protocols/codec.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "base/bytes.h"
#include "base/rng.h"
#include "protocols/archive.h"
#include "protocols/header.h"
#include "samples.h"

namespace tidegate::protocols {
namespace {

std::string VectorPath(const std::string& name) {
  return std::string(TIDEGATE_SOURCE_DIR) + "/protocols/vectors/v1/" + name + ".hex";
}

// From the first release on the vectors are never edited: a message whose encoding changes is
// another message then.
TEST(Vectors, EverySampleEncodesToItsGoldenBytes) {
  for (const Sample& sample : AllSamples()) {
    if (std::getenv("TIDEGATE_WRITE_VECTORS") != nullptr &&
        !std::ifstream(VectorPath(sample.name))) {
      std::ofstream(VectorPath(sample.name)) << ToHex(sample.bytes) << "\n";
    }
    std::ifstream file(VectorPath(sample.name));
    ASSERT_TRUE(file.good()) << VectorPath(sample.name);
    std::string golden;
    file >> golden;
    EXPECT_EQ(ToHex(sample.bytes), golden) << sample.name;
  }
}

TEST(Codec, DecodeThenEncodeIsTheIdentity) {
  for (const Sample& sample : AllSamples()) {
    auto again = sample.recode(sample.bytes);
    ASSERT_TRUE(again.has_value()) << sample.name << ": " << again.error().reason;
    EXPECT_EQ(*again, sample.bytes) << sample.name;
  }
}

TEST(Codec, EveryCutAndEveryTrailingByteIsRefused) {
  for (const Sample& sample : AllSamples()) {
    for (size_t n = 0; n < sample.bytes.size(); ++n) {
      EXPECT_FALSE(sample.recode(std::span(sample.bytes).first(n)).has_value())
          << sample.name << " cut at " << n;
    }
    auto longer = sample.bytes;
    longer.push_back(0);
    EXPECT_FALSE(sample.recode(longer).has_value()) << sample.name;
  }
}

// Whatever decodes is in canonical form, and nothing crashes or allocates beyond the limits.
TEST(Codec, AnyFlippedByteIsRefusedOrIsAnotherCanonicalMessage) {
  for (const Sample& sample : AllSamples()) {
    for (size_t i = 0; i < sample.bytes.size(); ++i) {
      for (const uint8_t flip : {0x01, 0x80, 0xff}) {
        auto bytes = sample.bytes;
        bytes[i] ^= flip;
        auto again = sample.recode(bytes);
        EXPECT_TRUE(!again || *again == bytes) << sample.name << " at " << i;
      }
    }
  }
}

TEST(Codec, RandomBytesNeverCrash) {
  const auto samples = AllSamples();
  for (uint32_t i = 0; i < 20000; ++i) {
    const auto w = RandomWords(1, RngPurpose::kTest, 0, i);
    const Sample& sample = samples[w[0] % samples.size()];
    auto bytes = sample.bytes;
    bytes.resize(1 + w[1] % (sample.bytes.size() + 8));
    for (uint32_t k = 0; k < w[2] % 8; ++k) {
      const auto r = RandomWords(2, RngPurpose::kTest, i, k);
      bytes[r[0] % bytes.size()] = static_cast<uint8_t>(r[1]);
    }
    auto again = sample.recode(bytes);
    EXPECT_TRUE(!again || *again == bytes);
  }
}

// Nine bytes that claim two gigabytes.
TEST(Codec, AHugeLengthClaimIsRefusedBeforeAllocation) {
  std::vector<uint8_t> bytes = {0xff, 0xff, 0xff, 0x7f, 1, 2, 3, 4, 5};
  auto layout = Decode<Layout>(bytes);
  ASSERT_FALSE(layout.has_value());
  EXPECT_EQ(layout.error().reason, "a length of 2147483647 is over its limit 4096");
  StoreLe32(bytes.data(), 4000);
  EXPECT_EQ(Decode<Layout>(bytes).error().reason, "a length of 4000 is over the bytes that remain");
}

TEST(Codec, FieldsOutOfTheirRangeAreRefusedByName) {
  auto notice = Encode(AbandonNotice{});
  notice[16 + 4] = 9;
  EXPECT_EQ(Decode<AbandonNotice>(notice).error().reason,
            "abandon reason 9 is not known to this version");
  auto manifest = Encode(AdapterManifest{});
  manifest[20] = 2;
  EXPECT_EQ(Decode<AdapterManifest>(manifest).error().reason, "a flag is neither 0 nor 1");
  auto error = Encode(ErrorMessage{1, 1, {}, "a\nb"});
  EXPECT_FALSE(Decode<ErrorMessage>(error).has_value()) << "control characters";
  JobManifest job;
  job.learning_rate = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(Decode<JobManifest>(Encode(job)).error().reason, "a number is not finite");
}

TEST(Codec, AFieldOverItsLimitIsNotEncoded) {
  Layout layout;
  layout.tensors.items.resize(kMaxTensors + 1);
  EXPECT_THROW(Encode(layout), std::length_error);
}

TEST(Header, AFrameComesBackAndEveryFlippedBitIsRefused) {
  Id16 federation{};
  federation[3] = 7;
  const std::vector<uint8_t> body = {1, 2, 3};
  const auto frame = Frame(MessageType::kOffer, federation, 12, body);
  auto parsed = ParseFrame(frame, federation);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().reason;
  EXPECT_EQ(parsed->type, MessageType::kOffer);
  EXPECT_EQ(parsed->sequence, 12u);
  EXPECT_TRUE(std::equal(body.begin(), body.end(), parsed->body.begin(), parsed->body.end()));
  for (size_t bit = 0; bit < frame.size() * 8; ++bit) {
    auto bad = frame;
    bad[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    EXPECT_FALSE(ParseFrame(bad, federation).has_value()) << "bit " << bit;
  }
  Id16 other{};
  EXPECT_EQ(ParseFrame(frame, other).error().reason, "the message is for another federation");
}

TEST(Header, AnotherProtocolVersionIsRefusedByName) {
  auto frame = Frame(MessageType::kHello, {}, 0, {});
  frame[4] = 9;
  StoreLe32(frame.data() + 44, Crc32c(std::span(frame).first(44)));
  EXPECT_EQ(ParseFrame(frame, {}).error().reason,
            "protocol version 9 is not spoken here; this side speaks version 1");
}

TEST(Header, Crc32cKnownAnswer) { EXPECT_EQ(Crc32c(AsBytes("123456789")), 0xe3069283u); }

TEST(Chunk, ComesBackAndLiesAreRefused) {
  const std::vector<uint8_t> data(100, 5);
  Chunk chunk{{}, 3, data};
  auto body = EncodeChunk(chunk);
  auto decoded = DecodeChunk(body);
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->index, 3u);
  EXPECT_TRUE(std::equal(data.begin(), data.end(), decoded->bytes.begin(), decoded->bytes.end()));
  body[36] ^= 1;
  EXPECT_FALSE(DecodeChunk(body).has_value());
  EXPECT_FALSE(DecodeChunk(std::vector<uint8_t>(kMaxChunkBody + 1)).has_value());
  EXPECT_FALSE(DecodeChunk(std::vector<uint8_t>(10)).has_value());
}

}  // namespace
}  // namespace tidegate::protocols
