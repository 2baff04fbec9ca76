#include "blocks/block_store.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "blocks/content.h"

namespace tidegate::blocks {
namespace {

namespace fs = std::filesystem;

class BlockStoreTest : public testing::Test {
 protected:
  BlockStoreTest() { fs::remove_all(dir_); }
  ~BlockStoreTest() override { fs::remove_all(dir_); }
  fs::path PathOf(const Digest& id) const {
    return dir_ / ToHex(id).substr(0, 2) / ToHex(id).substr(2);
  }
  const fs::path dir_ =
      fs::temp_directory_path() / fmt::format("tidegate_block_store_{}", ::getpid());
};

TEST_F(BlockStoreTest, WhatIsPutComesBackAfterReopening) {
  const Bytes block(1000, 7);
  const Digest id = BlockId(block);
  {
    auto store = BlockStore::Open(dir_, 1 << 20);
    ASSERT_TRUE(store->Put(id, block).ok());
    ASSERT_TRUE(store->Put(id, block).ok()) << "twice is once";
    ASSERT_TRUE(store->Sync().ok());
    EXPECT_EQ(store->used_bytes(), 1000u);
  }
  std::ofstream(PathOf(id).string() + ".tmp") << "half";
  auto store = BlockStore::Open(dir_, 1 << 20);
  EXPECT_FALSE(fs::exists(PathOf(id).string() + ".tmp")) << "what a crash left is gone";
  EXPECT_EQ(*store->Get(id), block);
  EXPECT_EQ(store->List()->size(), 1u);
  EXPECT_TRUE(store->Remove(id).ok());
  EXPECT_TRUE(store->Remove(id).ok());
  EXPECT_EQ(store->Get(id).error().code(), Code::kNotFound);
  EXPECT_EQ(store->used_bytes(), 0u);
}

TEST_F(BlockStoreTest, RefusesWrongBytesAndTheQuota) {
  auto store = BlockStore::Open(dir_, 1500);
  const Bytes a(1000, 1), b(1000, 2);
  EXPECT_EQ(store->Put(BlockId(b), a).code(), Code::kInvalidArgument);
  EXPECT_TRUE(store->Put(BlockId(a), a).ok());
  EXPECT_EQ(store->Put(BlockId(b), b).code(), Code::kResourceExhausted);
}

TEST_F(BlockStoreTest, TheQuotaHoldsAfterReopeningAndNamesItself) {
  const Bytes a(1000, 1), b(600, 2);
  {
    auto store = BlockStore::Open(dir_, 1500);
    ASSERT_TRUE(store->Put(BlockId(a), a).ok());
    ASSERT_TRUE(store->Sync().ok());
  }
  std::ofstream(dir_ / "README") << std::string(1000, 'x');
  auto store = BlockStore::Open(dir_, 1500);
  EXPECT_EQ(store->used_bytes(), 1000u) << "a file that is no block is not counted";
  const Status full = store->Put(BlockId(b), b);
  EXPECT_EQ(full.code(), Code::kResourceExhausted);
  EXPECT_NE(full.message().find("1500"), std::string::npos) << full.message();
  ASSERT_TRUE(store->Remove(BlockId(a)).ok());
  EXPECT_TRUE(store->Put(BlockId(b), b).ok()) << "room again";
  EXPECT_EQ(store->used_bytes(), 600u);
}

TEST_F(BlockStoreTest, ListsInTheOrderOfTheIdsWhateverTheDiskSays) {
  auto store = BlockStore::Open(dir_, 1 << 20);
  std::vector<Digest> ids;
  for (uint8_t i = 0; i < 40; ++i) {
    const Bytes block(10, i);
    ids.push_back(BlockId(block));
    ASSERT_TRUE(store->Put(ids.back(), block).ok());
  }
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(*store->List(), ids);
}

TEST_F(BlockStoreTest, APlaceThatCanNotBeAFolderIsNamed) {
  std::ofstream(dir_.string()) << "a file";
  const auto store = BlockStore::Open(dir_, 1 << 20);
  ASSERT_FALSE(store.has_value());
  EXPECT_NE(store.error().message().find(dir_.native()), std::string::npos);
}

TEST_F(BlockStoreTest, ADamagedBlockIsFoundAndRemoved) {
  auto store = BlockStore::Open(dir_, 1 << 20);
  const Bytes block(1000, 1);
  const Digest id = BlockId(block);
  ASSERT_TRUE(store->Put(id, block).ok());
  ASSERT_TRUE(store->Sync().ok());
  std::ofstream(PathOf(id)) << "other bytes";
  EXPECT_EQ(*store->GetUnverified(id),
            Bytes({'o', 't', 'h', 'e', 'r', ' ', 'b', 'y', 't', 'e', 's'}));
  EXPECT_EQ(store->Get(id).error().code(), Code::kDataLoss);
  EXPECT_FALSE(store->Has(id));
}

TEST_F(BlockStoreTest, ABlockHasItsNameOnceItIsOnTheDisk) {
  auto store = BlockStore::Open(dir_, 1 << 20);
  const Bytes block(1000, 1), gone(500, 2);
  const Digest id = BlockId(block), other = BlockId(gone);
  ASSERT_TRUE(store->Put(id, block).ok());
  ASSERT_TRUE(store->Put(other, gone).ok());
  EXPECT_FALSE(fs::exists(PathOf(id))) << "a crash now must not leave half a block under its name";
  EXPECT_TRUE(store->Has(id)) << "but it can be used";
  EXPECT_EQ(*store->Get(id), block);
  ASSERT_TRUE(store->Remove(other).ok());
  EXPECT_FALSE(store->Has(other));
  EXPECT_EQ(store->used_bytes(), 1000u);
  ASSERT_TRUE(store->Sync().ok());
  EXPECT_TRUE(fs::exists(PathOf(id)));
  EXPECT_EQ(*store->Get(id), block);
}

// A receiver that puts a large content without a Sync loses little of it in a crash.
TEST_F(BlockStoreTest, LargeContentsGetTheirNamesOnTheWay) {
  std::vector<Digest> ids;
  {
    auto store = BlockStore::Open(dir_, 64 << 20);
    for (uint8_t i = 0; i < 83; ++i) {
      const Bytes block(protocols::kBlockBytes, i);
      ids.push_back(BlockId(block));
      ASSERT_TRUE(store->Put(ids.back(), block).ok());
    }
  }
  auto store = BlockStore::Open(dir_, 64 << 20);
  const auto kept = std::count_if(ids.begin(), ids.end(), [&](auto& id) { return store->Has(id); });
  EXPECT_EQ(kept, 80) << "whole turns of 2 MiB";
  EXPECT_EQ(store->used_bytes(), 80 * protocols::kBlockBytes);
}

// The temporary is gone under the store: as after a failed fsync, nothing of it is left.
TEST_F(BlockStoreTest, AfterAFailedSyncNothingOfItIsThere) {
  auto store = BlockStore::Open(dir_, 1 << 20);
  const Bytes block(1000, 1);
  const Digest id = BlockId(block);
  ASSERT_TRUE(store->Put(id, block).ok());
  fs::remove(PathOf(id).string() + ".tmp");
  EXPECT_EQ(store->Sync().code(), Code::kNotFound);
  EXPECT_FALSE(store->Has(id));
  EXPECT_EQ(store->used_bytes(), 0u);
  ASSERT_TRUE(store->Put(id, block).ok()) << "it can be put anew";
  ASSERT_TRUE(store->Sync().ok());
  EXPECT_EQ(*store->Get(id), block);
}

// A turn that has promised blocks must not be committed when a later block's Sync has lost them.
TEST_F(BlockStoreTest, AFailureWithinPutIsToldByTheNextSyncToo) {
  auto store = BlockStore::Open(dir_, 64 << 20);
  Bytes block(protocols::kBlockBytes, 1);
  const Digest first = BlockId(block);
  ASSERT_TRUE(store->Put(first, block).ok());
  fs::remove(PathOf(first).string() + ".tmp");
  // Turn by turn, until one hears of it: there is no room for more to wait.
  Status put;
  for (uint8_t i = 2; i <= 160 && put.ok(); ++i) {
    block[0] = i;
    put = store->Put(BlockId(block), block);
  }
  EXPECT_FALSE(put.ok());
  EXPECT_FALSE(store->Has(first));
  EXPECT_FALSE(store->Sync().ok());
  EXPECT_TRUE(store->Sync().ok()) << "told once";
}

TEST_F(BlockStoreTest, WhatIsRemovedSoonIsGoneAtOnceAndFromTheDiskBySync) {
  auto store = BlockStore::Open(dir_, 64 << 20);
  std::vector<Digest> ids;
  for (uint8_t i = 0; i < 40; ++i) {
    const Bytes block(1000, i);
    ids.push_back(BlockId(block));
    ASSERT_TRUE(store->Put(ids.back(), block).ok());
  }
  ASSERT_TRUE(store->RemoveSoon(ids[0]).ok()) << "that has no name yet";
  ASSERT_TRUE(store->Sync().ok());
  for (size_t i = 0; i < 39; ++i) ASSERT_TRUE(store->RemoveSoon(ids[i]).ok());
  EXPECT_EQ(store->used_bytes(), 1000u);
  EXPECT_EQ(*store->List(), std::vector<Digest>{ids[39]});
  EXPECT_FALSE(store->Has(ids[5]));
  EXPECT_EQ(store->Get(ids[5]).error().code(), Code::kNotFound);
  // Put anew while it is on its way out, it stays.
  ASSERT_TRUE(store->Put(ids[7], Bytes(1000, 7)).ok());
  ASSERT_TRUE(store->Sync().ok());
  EXPECT_FALSE(fs::exists(PathOf(ids[5])));
  EXPECT_TRUE(fs::exists(PathOf(ids[7])));
  EXPECT_EQ(*store->Get(ids[7]), Bytes(1000, 7));
  EXPECT_EQ(store->used_bytes(), 2000u);
}

// Files of whole blocks are written over, with all that a store promises of new ones.
TEST_F(BlockStoreTest, FilesThatAreUsedAgainHoldWhatIsPutLast) {
  const auto block = [](uint8_t i) { return Bytes(protocols::kBlockBytes, i); };
  const auto files = [this] {
    size_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(dir_)) {
      count += entry.is_regular_file() ? 1 : 0;
    }
    return count;
  };
  constexpr uint8_t kBlocks = 20;
  {
    auto store = BlockStore::Open(dir_, 2 * kBlocks * protocols::kBlockBytes);
    for (uint8_t round = 0; round < 5; ++round) {
      for (uint8_t i = 0; i < kBlocks; ++i) {
        const Bytes fresh = block(static_cast<uint8_t>(round * kBlocks + i));
        ASSERT_TRUE(store->Put(BlockId(fresh), fresh).ok());
        EXPECT_EQ(*store->Get(BlockId(fresh)), fresh);
      }
      ASSERT_TRUE(store->Sync().ok());
      EXPECT_EQ(store->used_bytes(), (round == 0 ? 1 : 2) * kBlocks * protocols::kBlockBytes);
      EXPECT_LE(files(), 2u * kBlocks) << "spares are within the quota";
      for (uint8_t i = 0; round > 0 && i < kBlocks; ++i) {
        const Digest old = BlockId(block(static_cast<uint8_t>((round - 1) * kBlocks + i)));
        ASSERT_TRUE(store->RemoveSoon(old).ok());
        EXPECT_FALSE(store->Has(old));
      }
    }
    ASSERT_TRUE(store->Sync().ok());
    EXPECT_EQ(files(), 2u * kBlocks) << "the removed ones wait to be used again";
  }
  EXPECT_EQ(files(), kBlocks) << "with the store they go";
  auto store = BlockStore::Open(dir_, 1 << 30);
  EXPECT_EQ(store->used_bytes(), kBlocks * protocols::kBlockBytes);
  for (uint8_t i = 0; i < 5 * kBlocks; ++i) {
    const Bytes put = block(i);
    ASSERT_EQ(store->Has(BlockId(put)), i >= 4 * kBlocks);
    if (i >= 4 * kBlocks) {
      EXPECT_EQ(*store->Get(BlockId(put)), put);
    }
  }
}

TEST(Content, CutsAtBlocksAndNamesTheWhole) {
  const Bytes bytes(protocols::kBlockBytes * 2 + 5, 3);
  std::vector<size_t> sizes;
  const Content content = Cut(bytes, [&](const Digest&, ByteSpan b) { sizes.push_back(b.size()); });
  EXPECT_EQ(sizes, (std::vector<size_t>{protocols::kBlockBytes, protocols::kBlockBytes, 5}));
  EXPECT_EQ(content.id, ContentId(content.blocks));
  EXPECT_TRUE(BlockSizeFits(bytes.size(), 3, 2, 5));
  EXPECT_FALSE(BlockSizeFits(bytes.size(), 3, 2, 6));
  EXPECT_FALSE(BlockSizeFits(bytes.size(), 3, 1, 5));
  EXPECT_FALSE(BlockSizeFits(bytes.size(), 3, 3, 5));
}

}  // namespace
}  // namespace tidegate::blocks
