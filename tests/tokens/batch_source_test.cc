#include "tokens/batch_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tokens/fingerprint.h"

namespace tidegate::tokens {
namespace {

std::vector<TokenSequence> Sequences(int count) {
  std::vector<TokenSequence> out;
  for (int i = 0; i < count; ++i) {
    TokenSequence s;
    for (int k = 0; k < 2 + i % 7; ++k) {
      s.ids.push_back(100 * i + k);
      s.loss_mask.push_back(1);
    }
    out.push_back(s);
  }
  return out;
}

std::unique_ptr<BatchSource> Make(int count, BatchOptions options) {
  auto source = MakeBatchSource(Sequences(count), options);
  EXPECT_TRUE(source) << source.error().ToString();
  return std::move(*source);
}

TEST(LayOut, PositionZeroHasNoLabelAndSegmentsDoNotMix) {
  const std::vector<TokenSequence> sequences = {{{5, 6, 7}, {1, 0, 1}}, {{8, 9}, {1, 1}}};
  const std::vector<uint32_t> indices = {1, 0};
  const PackedBatch batch = LayOut(sequences, indices);
  EXPECT_EQ(batch.ids, (std::vector<int32_t>{8, 9, 5, 6, 7}));
  EXPECT_EQ(batch.position_ids, (std::vector<int32_t>{0, 1, 0, 1, 2}));
  EXPECT_EQ(batch.segment_start, (std::vector<int32_t>{0, 0, 2, 2, 2}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{9, -1, -1, 7, -1}));
  EXPECT_EQ(batch.num_targets, 2);
  EXPECT_EQ(batch.segment_begins, (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(batch.sequence_indices, indices);
}

TEST(PlanBestFit, FillsTheFullestRowThatHasRoomAndKeepsEverySequenceOnce) {
  const std::vector<int64_t> lengths = {4, 8, 1, 4, 2, 5};
  const auto rows = PlanBestFit(lengths, 8);
  ASSERT_TRUE(rows);
  EXPECT_EQ(*rows, (std::vector<Row>{{1}, {5, 4, 2}, {0, 3}}));
  EXPECT_FALSE(PlanBestFit(std::vector<int64_t>{9}, 8));
  EXPECT_FALSE(PlanBestFit(std::vector<int64_t>{0}, 8));
}

TEST(EpochOrder, IsAPermutationThatDependsOnSeedAndEpochOnly) {
  const auto first = EpochOrder(7, 0, 100);
  EXPECT_EQ(first, EpochOrder(7, 0, 100));
  EXPECT_NE(first, EpochOrder(7, 1, 100));
  EXPECT_NE(first, EpochOrder(8, 0, 100));
  EXPECT_EQ(std::set<uint32_t>(first.begin(), first.end()).size(), 100u);
  EXPECT_EQ(*std::max_element(first.begin(), first.end()), 99u);
  EXPECT_EQ(EpochOrder(1, 0, 0).size(), 0u);
}

TEST(BatchSource, AnEpochServesEverySequenceOncePackedOrNot) {
  for (const bool packed : {true, false}) {
    const auto source =
        Make(53, {.seed = 3, .packed = packed, .max_length = 16, .rows_per_batch = 2});
    std::vector<uint32_t> seen;
    uint64_t windows = 0;
    while (source->cursor().epoch == 0) {
      auto window = source->NextWindow(3);
      ASSERT_TRUE(window);
      ASSERT_FALSE(window->empty());
      ++windows;
      for (const PackedBatch& batch : *window) {
        seen.insert(seen.end(), batch.sequence_indices.begin(), batch.sequence_indices.end());
        EXPECT_LE(batch.ids.size(), 32u);
      }
    }
    EXPECT_EQ(windows, source->WindowsPerEpoch(3));
    std::sort(seen.begin(), seen.end());
    ASSERT_EQ(seen.size(), 53u);
    for (uint32_t i = 0; i < 53; ++i) EXPECT_EQ(seen[i], i);
  }
}

TEST(BatchSource, ResumingAtAnyCursorGivesTheSameStream) {
  const BatchOptions options = {.seed = 11, .max_length = 8, .rows_per_batch = 2};
  const auto straight = Make(40, options);
  std::vector<std::vector<int32_t>> stream;
  std::vector<Cursor> cursors;
  for (int i = 0; i < 30; ++i) {
    cursors.push_back(straight->cursor());
    stream.push_back((*straight->NextWindow(1))[0].ids);
  }
  ASSERT_GE(cursors.back().epoch, 1u) << "the stream must cross an epoch";
  EXPECT_NE(stream[0], stream[straight->MicroBatchesPerEpoch()]);
  for (size_t at = 0; at < cursors.size(); at += 3) {
    const auto resumed = Make(40, options);
    EXPECT_EQ(resumed->fingerprint(), straight->fingerprint());
    ASSERT_TRUE(resumed->Seek(cursors[at]).ok());
    for (size_t i = at; i < stream.size(); ++i) {
      ASSERT_EQ((*resumed->NextWindow(1))[0].ids, stream[i]) << at << " " << i;
    }
  }
  EXPECT_FALSE(straight->Seek({0, straight->MicroBatchesPerEpoch()}).ok());
}

TEST(BatchSource, AccumulationOnlyGroupsTheSameMicroBatches) {
  const BatchOptions options = {.seed = 5, .packed = false, .max_length = 16};
  const auto ones = Make(10, options);
  const auto fours = Make(10, options);
  std::vector<size_t> sizes;
  while (fours->cursor().epoch == 0) {
    const auto window = fours->NextWindow(4);
    sizes.push_back(window->size());
    for (const PackedBatch& batch : *window) EXPECT_EQ((*ones->NextWindow(1))[0].ids, batch.ids);
  }
  EXPECT_EQ(sizes, (std::vector<size_t>{4, 4, 2})) << "a window never spans two epochs";
  EXPECT_FALSE(ones->NextWindow(0));
}

TEST(BatchSource, WithoutShufflingTheOrderIsTheDatas) {
  const auto source = Make(3, {.shuffle = false, .packed = false, .max_length = 16});
  EXPECT_EQ((*source->NextWindow(1))[0].sequence_indices[0], 0u);
  EXPECT_EQ((*source->NextWindow(1))[0].sequence_indices[0], 1u);
}

TEST(BatchSource, FingerprintSeesDataOptionsAndMask) {
  const BatchOptions options = {.seed = 1, .max_length = 16};
  const uint64_t base = Make(9, options)->fingerprint();
  BatchOptions other = options;
  other.seed = 2;
  EXPECT_NE(base, Make(9, other)->fingerprint());
  auto data = Sequences(9);
  data[4].loss_mask[1] = 0;
  EXPECT_NE(base, (*MakeBatchSource(data, options))->fingerprint());
  data = Sequences(9);
  data[4].ids[1] ^= 1;
  EXPECT_NE(base, (*MakeBatchSource(data, options))->fingerprint());
}

TEST(BatchSource, BadInputIsRefused) {
  const BatchOptions options = {.max_length = 8};
  EXPECT_FALSE(MakeBatchSource({}, options));
  EXPECT_FALSE(MakeBatchSource({{{1, 2}, {1, 0}}}, options)) << "no target";
  EXPECT_FALSE(MakeBatchSource({{{1, 2}, {1}}}, options)) << "short mask";
  EXPECT_FALSE(
      MakeBatchSource({{std::vector<int32_t>(9, 1), std::vector<uint8_t>(9, 1)}}, options));
  EXPECT_FALSE(MakeBatchSource(Sequences(2), {.max_length = 1}));
  EXPECT_FALSE(MakeBatchSource(Sequences(2), {.rows_per_batch = 0}));
  EXPECT_FALSE(MakeBatchSource(Sequences(2), {.max_length = 1 << 20, .rows_per_batch = 4096}));
}

TEST(Fingerprint, IsFnv1aOfLengthAndBytes) {
  Fingerprint empty;
  EXPECT_EQ(empty.value(), 0xcbf29ce484222325ull);
  Fingerprint a;
  a.AddByte('a');
  EXPECT_EQ(a.value(), 0xaf63dc4c8601ec8cull);
}

}  // namespace
}  // namespace tidegate::tokens
