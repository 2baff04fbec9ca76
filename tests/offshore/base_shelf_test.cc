// What a coordinator signs and serves of bases, and what it no longer does.
#include "offshore/base_shelf.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "bases/patch.h"
#include "blocks/content.h"
#include "crypto/base_hash.h"
#include "tests/bases/small_base.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kNow = 1795581436000;

class BaseShelfTest : public testing::Test {
 protected:
  BaseShelfTest() { Open(); }
  void Open() {
    auto shelf = BaseShelf::Open(folder_ / "bases", federation_, key_.verify_key());
    ASSERT_TRUE(shelf.has_value()) << shelf.error().ToString();
    shelf_.emplace(std::move(*shelf));
    auto store = blocks::BlockStore::Open(folder_ / "bases/blocks", 1u << 30);
    ASSERT_TRUE(store.has_value());
    store_.emplace(std::move(*store));
  }
  static json List(const protocols::BaseList& list) {
    json blocks = json::array();
    for (const Digest& id : list.blocks.items) blocks.push_back(ToHex(id));
    return {{"bytes", list.bytes}, {"blocks", blocks}};
  }
  // As `tidegate base publish` puts and asks it.
  json Request(const fs::path& dir, const Digest& previous, const fs::path& from = {}) {
    const auto sink = [this](const Digest& id, ByteSpan block) { return store_->Put(id, block); };
    const auto index = *bases::CutBase(dir, sink);
    uint64_t bytes = 0;
    for (const auto& file : index.files.items) bytes += file.bytes;
    json request = {{"name", "small"},
                    {"licence", "Apache-2.0"},
                    {"expires_unix_millis", static_cast<uint64_t>(kNow + 1)},
                    {"previous", ToHex(previous)},
                    {"base_hash", ToHex(*crypto::BaseHash(dir))},
                    {"base_bytes", bytes},
                    {"index", List(*bases::PutList(protocols::Encode(index), sink))}};
    if (!from.empty()) {
      const auto made = *bases::MakePatch(from, dir, index, sink);
      request["patch_from"] = ToHex(*crypto::BaseHash(from));
      request["patch_bytes"] = made.bytes;
      request["patch"] = List(*bases::PutList(protocols::Encode(made.patch), sink));
    }
    EXPECT_TRUE(store_->Sync().ok());
    return request;
  }
  Result<const bases::Published*> Publish(const json& request) {
    return shelf_->Publish(request, key_, kNow);
  }

  bases::TempFolder folder_;
  const protocols::Id16 federation_{1, 2, 3};
  const crypto::SigningKey key_ = *crypto::SigningKey::Generate();
  std::optional<BaseShelf> shelf_;
  std::optional<blocks::BlockStore> store_;
};

TEST_F(BaseShelfTest, VersionsFollowFromEachOtherAndAllTheirContentsAreServedAfterARestartToo) {
  bases::WriteBase(folder_ / "a", {});
  bases::WriteBase(folder_ / "b", {.moved = 0.01f});
  const json first = Request(folder_ / "a", {});
  const auto a = Publish(first);
  ASSERT_TRUE(a.has_value()) << a.error().ToString();
  EXPECT_EQ((*a)->manifest.version, 1u);
  const Digest digest = (*a)->digest;
  const json second = Request(folder_ / "b", digest, folder_ / "a");
  const auto b = Publish(second);
  ASSERT_TRUE(b.has_value()) << b.error().ToString();
  EXPECT_EQ((*b)->manifest.version, 2u);
  EXPECT_EQ((*b)->manifest.previous, digest);
  EXPECT_EQ(Publish(second).error().code(), Code::kFailedPrecondition) << "of another previous";
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(shelf_->registry().InForce().size(), 2u);
    const protocols::BaseManifest m = shelf_->registry().Newest("small")->manifest;
    for (const protocols::BaseList* list : {&m.index, &m.patch}) {
      const auto ids = shelf_->BlocksOf(blocks::ContentId(list->blocks.items));
      ASSERT_NE(ids, nullptr);
      for (const Digest& id : *ids) EXPECT_TRUE(shelf_->Block(id).has_value());
    }
    const auto index = *protocols::Decode<protocols::BaseIndex>(
        *bases::GetList(m.index, bases::BlocksIn(folder_ / "bases/blocks")));
    const auto data = shelf_->BlocksOf(blocks::ContentId(bases::IdsOf(index)));
    ASSERT_NE(data, nullptr);
    EXPECT_EQ(*data, bases::IdsOf(index));
    EXPECT_EQ(shelf_->BlocksOf(Digest{7}), nullptr);
    Open();
  }
}

TEST_F(BaseShelfTest, WhatDoesNotFitOrIsNotThereIsNotSigned) {
  bases::WriteBase(folder_ / "a", {});
  const json good = Request(folder_ / "a", {});
  const auto refused = [&](const char* key, json value) {
    json bad = good;
    bad[key] = std::move(value);
    return Publish(bad).error().code();
  };
  EXPECT_EQ(refused("name", "../up"), Code::kInvalidArgument);
  EXPECT_EQ(refused("licence", std::string(201, 'x')), Code::kInvalidArgument);
  EXPECT_EQ(refused("licence", "a\nb"), Code::kInvalidArgument);
  EXPECT_EQ(refused("expires_unix_millis", kNow), Code::kInvalidArgument);
  EXPECT_EQ(refused("base_bytes", good["base_bytes"].get<uint64_t>() + 1), Code::kInvalidArgument);
  EXPECT_EQ(refused("base_hash", "12"), Code::kInvalidArgument);
  EXPECT_EQ(refused("index", {{"bytes", 5}, {"blocks", json::array()}}), Code::kInvalidArgument);
  EXPECT_EQ(refused("patch", good["index"]), Code::kInvalidArgument) << "from nothing";
  const Digest lost = (*store_->List())[3];
  ASSERT_TRUE(store_->Remove(lost).ok());
  EXPECT_EQ(Publish(good).error().code(), Code::kNotFound);
  EXPECT_TRUE(shelf_->registry().bases().empty());
}

TEST_F(BaseShelfTest, ARevokedVersionIsServedNoMoreAndItsFilesAreNotPublishedAgain) {
  bases::WriteBase(folder_ / "a", {});
  const json request = Request(folder_ / "a", {});
  const Digest content = blocks::ContentId((*Publish(request))->manifest.index.blocks.items);
  ASSERT_NE(shelf_->BlocksOf(content), nullptr);
  const json revoke = {{"base", "small@1"}, {"reason", "a mistake"}};
  EXPECT_EQ(shelf_->Revoke({{"base", "small"}, {"reason", ""}}, key_, kNow).error().code(),
            Code::kInvalidArgument);
  ASSERT_TRUE(shelf_->Revoke(revoke, key_, kNow).has_value());
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(shelf_->BlocksOf(content), nullptr);
    EXPECT_TRUE(shelf_->registry().InForce().empty());
    EXPECT_EQ(shelf_->Revoke(revoke, key_, kNow).error().code(), Code::kFailedPrecondition);
    const json again = Request(folder_ / "a", shelf_->registry().Newest("small")->digest);
    EXPECT_EQ(Publish(again).error().code(), Code::kFailedPrecondition);
    Open();
  }
}

TEST_F(BaseShelfTest, ADamagedDocumentOrBlockIsNamed) {
  bases::WriteBase(folder_ / "a", {});
  ASSERT_TRUE(Publish(Request(folder_ / "a", {})).has_value());
  const Digest id = shelf_->registry().Newest("small")->manifest.index.blocks.items[0];
  const std::string hex = ToHex(id);
  const fs::path block = folder_ / ("bases/blocks/" + hex.substr(0, 2) + "/" + hex.substr(2));
  Bytes bytes = *ReadFile(block, 1 << 20);
  bytes[bytes.size() / 2] ^= 1;
  ASSERT_TRUE(WriteFileDurably(block, bytes).ok());
  EXPECT_EQ(shelf_->Block(id).error().code(), Code::kDataLoss);
  const fs::path manifest = folder_ / "bases/small@1.base";
  bytes = *ReadFile(manifest, 1 << 20);
  bytes[40] ^= 1;
  ASSERT_TRUE(WriteFileDurably(manifest, bytes).ok());
  const auto shelf = BaseShelf::Open(folder_ / "bases", federation_, key_.verify_key());
  ASSERT_FALSE(shelf.has_value());
  EXPECT_NE(shelf.error().message().find("small@1.base"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::offshore
