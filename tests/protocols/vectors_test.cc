// The vectors that are not the encoding of one archive, made by tests/golden/wire_vectors.py from
// the pages: what we write is them, and we read from them what went in.
#include <gtest/gtest.h>

#include "protocols/header.h"
#include "protocols/messages.h"
#include "update_sample.h"

namespace tidegate::protocols {
namespace {

TEST(Vectors, AFrameIsItsGoldenBytes) {
  const Commit commit{CountingFrom<32>(8)};
  const auto golden = VectorBytes("frame.hex");
  ASSERT_FALSE(golden.empty());
  const auto federation = CountingFrom<16>(1);
  const uint64_t sequence = 0x0102030405060708;
  EXPECT_EQ(ToHex(Frame(MessageType::kCommit, federation, sequence, Encode(commit))),
            ToHex(golden));
  const auto parsed = ParseFrame(golden, federation);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().reason;
  EXPECT_EQ(parsed->type, MessageType::kCommit);
  EXPECT_EQ(parsed->sequence, sequence);
  EXPECT_EQ(*Decode<Commit>(parsed->body), commit);
}

TEST(Vectors, AChunkIsItsGoldenBytes) {
  const auto golden = VectorBytes("chunk.hex");
  ASSERT_FALSE(golden.empty());
  const auto block = CountingFrom<20>(200);
  EXPECT_EQ(ToHex(EncodeChunk({CountingFrom<32>(8), 5, block})), ToHex(golden));
  const auto chunk = DecodeChunk(golden);
  ASSERT_TRUE(chunk.has_value()) << chunk.error().reason;
  EXPECT_EQ(chunk->content, CountingFrom<32>(8));
  EXPECT_EQ(chunk->index, 5u);
  EXPECT_TRUE(std::equal(block.begin(), block.end(), chunk->bytes.begin(), chunk->bytes.end()));
}

void ReadsAs(const std::string& name, Codec codec) {
  const auto golden = VectorBytes(name);
  ASSERT_FALSE(golden.empty());
  const auto view = UpdateView::Parse(golden, GoldenLayout());
  ASSERT_TRUE(view.has_value()) << view.error().reason;
  const UpdateHeader header = GoldenHeader(codec, view->header().layout_digest);
  std::vector<uint8_t> written(kUpdateHeaderBytes);
  WriteUpdateHeader(header, written.data());
  EXPECT_EQ(ToHex(written), ToHex(std::span(golden).first(kUpdateHeaderBytes)));
  EXPECT_EQ(view->header().job, header.job);
  EXPECT_EQ(view->header().base_hash, header.base_hash);
  EXPECT_EQ(view->header().weight, header.weight);
  EXPECT_EQ(view->header().metrics.train_loss_milli, 2345u);
  EXPECT_EQ(view->header().metrics.heldout_loss_milli, 6789u);
  std::vector<double> values(263, 0.0);
  for (const UpdateTensor& t : view->tensors()) {
    ForEachValue(t, [&values](uint64_t i, double value) { values[i] = value; });
  }
  EXPECT_EQ(values, GoldenValues(codec));
}

// 2^62 values of four bytes are 2^64 bytes: none, if nobody looks.
TEST(Update, ALayoutWhoseBytesAreNoNumberHasNoUpdate) {
  Layout layout;
  layout.tensors.items = {{"layer.0.lora_A", 1u << 31, 1u << 31, 0}};
  EXPECT_GT(UpdateBytes(layout, 1, Codec::kFixed32), UINT64_MAX / kMaxTensors / 2);
  UpdateHeader header = GoldenHeader(Codec::kFixed32, {});
  header.groups = 1;
  header.tensors = 1;
  header.values = uint64_t{1} << 62;
  std::vector<uint8_t> bytes(kUpdateHeaderBytes);
  WriteUpdateHeader(header, bytes.data());
  EXPECT_FALSE(UpdateView::Parse(bytes, layout).has_value());
  layout.tensors.items.assign(kMaxTensors, {"t", UINT32_MAX, UINT32_MAX, 0});
  EXPECT_GT(UpdateBytes(layout, 1, Codec::kInt8), uint64_t{1} << 62) << "sums do not wrap either";
}

TEST(Vectors, TheGoldenUpdatesReadAsWhatWentIn) {
  for (const GoldenUpdate& golden : kGoldenUpdates) {
    SCOPED_TRACE(golden.name);
    ReadsAs(golden.name, golden.codec);
  }
}

}  // namespace
}  // namespace tidegate::protocols
