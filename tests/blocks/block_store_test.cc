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
  Status put;
  for (uint8_t i = 2; i <= 8; ++i) {
    block[0] = i;
    ASSERT_TRUE(put.ok()) << "only the last one fills the turn";
    put = store->Put(BlockId(block), block);
  }
  EXPECT_FALSE(put.ok());
  EXPECT_FALSE(store->Has(first));
  EXPECT_FALSE(store->Sync().ok());
  EXPECT_TRUE(store->Sync().ok()) << "told once";
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
