#include "transport/transfer.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "crypto/hash.h"

namespace tidegate::transport {
namespace {

struct Sample {
  explicit Sample(size_t size) : bytes(size) {
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>((i * 7 >> 2) + (i >> 18));
    crypto::Sha256 all;
    for (size_t at = 0; at < size; at += protocols::kBlockBytes) {
      blocks.push_back(crypto::Sha256::Of(Block(static_cast<uint32_t>(blocks.size()))));
      all.Update(blocks.back());
    }
    content = all.Finish();
  }
  ByteSpan Block(uint32_t i) const {
    const size_t at = i * protocols::kBlockBytes;
    return ByteSpan(bytes).subspan(at, std::min(protocols::kBlockBytes, bytes.size() - at));
  }
  Bytes bytes;
  std::vector<Digest> blocks;
  Digest content;
};

TEST(Transfer, CreditBoundsWhatIsUnderWay) {
  const Sample sample(100 * protocols::kBlockBytes + 17);
  BlockReceiver receiver(sample.content, sample.bytes.size(), sample.blocks, {});
  BlockSender sender(sample.content, 101);
  EXPECT_FALSE(sender.Next().has_value()) << "nothing is asked for";
  for (const auto& want : receiver.Ask()) EXPECT_TRUE(sender.OnWant(want));
  uint64_t under_way = 0, most = 0;
  std::deque<uint32_t> wire;
  uint32_t sent = 0;
  while (!receiver.complete()) {
    while (const auto index = sender.Next()) {
      wire.push_back(*index);
      under_way += protocols::kBlockBytes;
      ++sent;
    }
    most = std::max(most, under_way);
    ASSERT_FALSE(wire.empty()) << "a transfer must not stall";
    const uint32_t index = wire.front();
    wire.pop_front();
    under_way -= protocols::kBlockBytes;
    ASSERT_EQ(receiver.Check({sample.content, index, sample.Block(index)}),
              BlockReceiver::Verdict::kStored);
    if (const auto credit = receiver.Stored(index, sample.Block(index).size())) {
      EXPECT_TRUE(sender.OnCredit(*credit));
    }
  }
  EXPECT_LE(most, kWindowBytes);
  EXPECT_EQ(sent, 101u) << "each block once";
}

// Cuts, losses, duplicates and reordering: the receiver ends with all blocks, none of them wrong.
TEST(Transfer, SurvivesAnyWire) {
  const Sample sample(40 * protocols::kBlockBytes + 5);
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::vector<bool> have(41, false);
    have[seed] = true;
    BlockReceiver receiver(sample.content, sample.bytes.size(), sample.blocks, have);
    BlockSender sender(sample.content, 41);
    std::vector<uint32_t> wire;
    for (uint32_t step = 0; !receiver.complete(); ++step) {
      ASSERT_LT(step, 5000u);
      const auto w = RandomWords(seed, RngPurpose::kTest, 0, step);
      if (step == 0 || w[0] % 50 == 0 || (wire.empty() && !sender.Next())) {
        wire.clear();
        sender.Reset();
        for (const auto& want : receiver.Ask()) ASSERT_TRUE(sender.OnWant(want));
      }
      while (const auto index = sender.Next()) {
        if (RandomWords(seed, RngPurpose::kTest, 1, step * 64 + *index)[0] % 10 != 0) {
          wire.push_back(*index);
        }
      }
      if (wire.empty()) continue;
      const size_t at = w[1] % wire.size();
      const uint32_t index = wire[at];
      if (w[2] % 5 != 0) wire.erase(wire.begin() + static_cast<ptrdiff_t>(at));
      if (receiver.Check({sample.content, index, sample.Block(index)}) ==
          BlockReceiver::Verdict::kStored) {
        if (const auto credit = receiver.Stored(index, sample.Block(index).size())) {
          sender.OnCredit(*credit);
        }
      }
    }
  }
}

TEST(Transfer, LiesAreRefused) {
  const Sample sample(3 * protocols::kBlockBytes);
  BlockReceiver receiver(sample.content, sample.bytes.size(), sample.blocks, {});
  using Verdict = BlockReceiver::Verdict;
  EXPECT_EQ(receiver.Check({{}, 0, sample.Block(0)}), Verdict::kRefused);
  EXPECT_EQ(receiver.Check({sample.content, 3, sample.Block(0)}), Verdict::kRefused);
  EXPECT_EQ(receiver.Check({sample.content, 1, sample.Block(0)}), Verdict::kRefused);
  EXPECT_EQ(receiver.Check({sample.content, 0, sample.Block(0).first(9)}), Verdict::kRefused);
  receiver.Stored(0, protocols::kBlockBytes);
  EXPECT_EQ(receiver.Check({sample.content, 0, sample.Block(0)}), Verdict::kDuplicate);
  EXPECT_EQ(receiver.HaveMessage().bitmap.items, (Bytes{1}));
  BlockSender sender(sample.content, 3);
  EXPECT_FALSE(sender.OnWant({{}, 0, 1, 1}));
  EXPECT_FALSE(sender.OnWant({sample.content, 0, 4, 1}));
  EXPECT_FALSE(sender.OnWant({sample.content, 3, 1, 1}));
  EXPECT_FALSE(sender.OnWant({sample.content, 0, 0, 1}));
  EXPECT_FALSE(sender.OnWant({sample.content, 0, 1, 1ull << 62}));
  EXPECT_FALSE(sender.OnCredit({sample.content, 1ull << 62}));
  EXPECT_FALSE(sender.Next().has_value());
}

}  // namespace
}  // namespace tidegate::transport
