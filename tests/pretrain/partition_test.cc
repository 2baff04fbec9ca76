#include "pretrain/partition.h"

#include <gtest/gtest.h>

#include <numeric>

#include "pretrain/gradient_tree.h"
#include "ranks.h"

namespace tidegate::pretrain {
namespace {

model::FlatLayout Layout(int ranks) { return model::LayOutFlat(TinyConfig(), FlatMultiple(ranks)); }

TEST(Partition, EveryElementHasOneOwner) {
  for (const int ranks : {1, 2, 3, 8}) {
    const model::FlatLayout layout = Layout(ranks);
    std::vector<int> owners(static_cast<size_t>(layout.count), 0);
    int64_t tensors = 0, whole = 0;
    for (const model::FlatTensor& tensor : layout.tensors) whole += tensor.count;
    for (int rank = 0; rank < ranks; ++rank) {
      const Partition partition(layout, ranks, rank, 1);
      int64_t local = 0;
      for (const Bucket& bucket : partition.buckets()) {
        EXPECT_EQ(bucket.local_begin, local);
        EXPECT_EQ(bucket.piece % kChunk, 0);
        local += bucket.piece;
        for (int64_t i = 0; i < bucket.piece; ++i) {
          ++owners[static_cast<size_t>(bucket.piece_begin + i)];
        }
      }
      EXPECT_EQ(local, partition.local_count());
      for (const Slice& slice : partition.Slices()) tensors += slice.end - slice.begin;
    }
    EXPECT_EQ(std::count(owners.begin(), owners.end(), 1), layout.count) << ranks;
    EXPECT_EQ(tensors, whole) << ranks;
  }
}

TEST(Partition, MatricesAreDecayedAndNormsAreNot) {
  const model::FlatLayout layout = Layout(2);
  for (int rank = 0; rank < 2; ++rank) {
    const Partition partition(layout, 2, rank, 1);
    for (const Bucket& bucket : partition.buckets()) {
      int64_t at = bucket.piece_begin;
      for (const Stretch& stretch : partition.StretchesOf(bucket)) {
        EXPECT_EQ(stretch.begin, at);
        EXPECT_EQ(stretch.local_begin - bucket.local_begin, at - bucket.piece_begin);
        at = stretch.end;
        for (const model::FlatTensor& tensor : layout.tensors) {
          const bool apart =
              tensor.offset + tensor.count <= stretch.begin || tensor.offset >= stretch.end;
          if (!apart) {
            EXPECT_EQ(stretch.decayed, tensor.shape.size() > 1) << tensor.name;
          }
        }
      }
      EXPECT_EQ(at, bucket.piece_begin + bucket.piece);
    }
  }
}

// Against the sum that the definition gives: halves that are powers of two, what is left goes up.
float Tree(std::vector<float> leaves) {
  while (leaves.size() > 1) {
    std::vector<float> above;
    for (size_t i = 0; i + 1 < leaves.size(); i += 2) above.push_back(leaves[i] + leaves[i + 1]);
    if (leaves.size() % 2 == 1) above.push_back(leaves.back());
    leaves = std::move(above);
  }
  return leaves[0];
}

TEST(GradientTree, AddsAsABalancedTree) {
  for (int64_t leaves = 1; leaves <= 17; ++leaves) {
    GradientTree tree(3, leaves);
    std::vector<float> values, buffer(3, 0.0f);
    for (int round = 0; round < 2; ++round) {  // a second step begins anew
      values.clear();
      std::fill(buffer.begin(), buffer.end(), 0.0f);
      for (int64_t leaf = 0; leaf < leaves; ++leaf) {
        const auto words = RandomWords(9, RngPurpose::kTest, 0, static_cast<uint64_t>(leaf));
        values.push_back(UniformFloat(words[0]) - 0.5f);
        for (float& element : buffer) element += values.back();
        tree.Add(leaf, buffer.data(), 1, 3);
        tree.Add(leaf, buffer.data(), 0, 1);
      }
      for (const float element : buffer) EXPECT_EQ(element, Tree(values)) << leaves;
    }
  }
}

}  // namespace
}  // namespace tidegate::pretrain
