// From a folder to blocks and back: whole, by a patch, and with every kind of damage.
#include <gtest/gtest.h>
#include <zstd.h>

#include <functional>

#include "base/file.h"
#include "bases/install.h"
#include "bases/patch.h"
#include "blocks/content.h"
#include "crypto/base_hash.h"
#include "small_base.h"

namespace tidegate::bases {
namespace {

namespace fs = std::filesystem;

// What a publisher makes of a folder, without the signature.
struct Published {
  protocols::BaseIndex index;
  protocols::BasePatch patch;
  MadePatch made;
  Installation installation;
  MemoryBlocks blocks;

  void Relist() {
    installation.manifest.index = *PutList(protocols::Encode(index), blocks.sink());
    if (patch.pieces.size() > 0) {
      installation.manifest.patch = *PutList(protocols::Encode(patch), blocks.sink());
    }
    installation.source = blocks.source();
  }
};

std::unique_ptr<Published> Publish(const fs::path& dir, const fs::path& from = {}) {
  auto p = std::make_unique<Published>();
  auto index = CutBase(dir, p->blocks.sink());
  EXPECT_TRUE(index.has_value()) << index.error().ToString();
  p->index = *index;
  protocols::BaseManifest& m = p->installation.manifest;
  m.base_hash = *crypto::BaseHash(dir);
  for (const auto& file : p->index.files.items) m.base_bytes += file.bytes;
  if (!from.empty()) {
    // Only the patch's blocks: what is needed to apply it and no more.
    p->blocks.blocks.clear();
    auto made = MakePatch(from, dir, p->index, p->blocks.sink());
    EXPECT_TRUE(made.has_value()) << made.error().ToString();
    p->made = std::move(*made);
    p->patch = p->made.patch;
    m.patch_from = *crypto::BaseHash(from);
    m.patch_bytes = p->made.bytes;
    p->installation.from = from;
  }
  p->Relist();
  return p;
}

class InstallTest : public testing::Test {
 protected:
  Status InstallTo(Published& p, const std::string& name) {
    p.installation.target = folder_ / name;
    return Install(p.installation);
  }
  void ExpectSame(const fs::path& made, const fs::path& wanted) {
    auto files = FilesIn(made);
    EXPECT_EQ(files.erase(kInstalledManifest), 1u);
    EXPECT_EQ(files, FilesIn(wanted));
  }
  // Nothing of it, not even half.
  void ExpectNothing(const std::string& name) {
    EXPECT_FALSE(fs::exists(folder_ / name));
    EXPECT_FALSE(fs::exists(folder_ / (name + ".partial")));
  }
  TempFolder folder_;
};

TEST_F(InstallTest, WhatIsInstalledIsWhatWasPublishedBitForBit) {
  WriteBase(folder_ / "a", {.config = ""});
  const auto p = Publish(folder_ / "a");
  // Large tensors begin a block, small ones share one, no block is over the limit.
  uint64_t at = 0;
  std::set<uint64_t> starts;
  for (const auto& block : p->index.blocks.items) {
    starts.insert(at);
    EXPECT_LE(block.bytes, protocols::kBlockBytes);
    at += block.bytes;
  }
  for (const auto& tensor : p->index.tensors.items) {
    const uint64_t place = p->index.files.items[0].bytes + tensor.offset;
    EXPECT_EQ(starts.contains(place), tensor.bytes >= protocols::kBlockBytes) << tensor.name.text;
  }
  ASSERT_TRUE(InstallTo(*p, "b").ok());
  ExpectSame(folder_ / "b", folder_ / "a");
  EXPECT_EQ(InstallTo(*p, "b").code(), Code::kAlreadyExists);
}

TEST_F(InstallTest, ATensorThatDidNotChangeKeepsItsBlocks) {
  WriteBase(folder_ / "a", {});
  WriteBase(folder_ / "b", {.moved = 0.01f, .config = "{\"longer\": true}"});
  const auto a = Publish(folder_ / "a"), b = Publish(folder_ / "b");
  size_t shared = 0;
  for (const auto& [id, block] : b->blocks.blocks) shared += a->blocks.blocks.contains(id);
  EXPECT_GE(shared, 8u) << "1.5 MB of embedding and 600 KB of head";
}

TEST_F(InstallTest, APatchGivesTheNewBaseBitForBitAndLeavesTheOldOne) {
  WriteBase(folder_ / "a", {});
  WriteBase(folder_ / "b", {.moved = 0.01f, .other_head = true, .config = "{\"longer\": true}"});
  const auto before = FilesIn(folder_ / "a");
  const auto p = Publish(folder_ / "b", folder_ / "a");
  EXPECT_GT(p->made.same, 1'500'000u) << "the embedding";
  EXPECT_GT(p->made.exclusive_or, 700'000u) << "what moved a little";
  EXPECT_LT(p->made.bytes, 1'200'000u);
  const Status status = InstallTo(*p, "c");
  ASSERT_TRUE(status.ok()) << status.ToString();
  ExpectSame(folder_ / "c", folder_ / "b");
  EXPECT_EQ(FilesIn(folder_ / "a"), before);
}

TEST_F(InstallTest, APatchToWhatIsTheSameIsNothing) {
  WriteBase(folder_ / "a", {});
  WriteBase(folder_ / "b", {});
  const auto p = Publish(folder_ / "b", folder_ / "a");
  EXPECT_EQ(p->made.bytes, 0u);
  ASSERT_TRUE(InstallTo(*p, "c").ok());
  ExpectSame(folder_ / "c", folder_ / "a");
}

TEST_F(InstallTest, APatchIsAppliedToItsOwnBaseAlone) {
  WriteBase(folder_ / "a", {});
  WriteBase(folder_ / "b", {.moved = 0.01f});
  const auto p = Publish(folder_ / "b", folder_ / "a");
  WriteBase(folder_ / "other", {.seed = 9});
  p->installation.from = folder_ / "other";
  EXPECT_EQ(InstallTo(*p, "c").code(), Code::kFailedPrecondition);
  ExpectNothing("c");
}

TEST_F(InstallTest, AFlippedBitInAnyBlockIsRefused) {
  WriteBase(folder_ / "a", {});
  WriteBase(folder_ / "b", {.moved = 0.01f, .other_head = true});
  for (const fs::path& from : {fs::path(), folder_ / "a"}) {
    const auto p = Publish(folder_ / "b", from);
    size_t tried = 0;
    for (auto& [id, block] : p->blocks.blocks) {
      for (const size_t at : {size_t{0}, block.size() / 2, block.size() - 1}) {
        block[at] ^= 1;
        p->installation.source = p->blocks.source();
        EXPECT_EQ(InstallTo(*p, "c").code(), Code::kDataLoss);
        block[at] ^= 1;
        ++tried;
      }
      ExpectNothing("c");
    }
    EXPECT_GE(tried, 9u);
  }
}

TEST_F(InstallTest, AMissingBlockIsNamedAndNothingIsLeft) {
  WriteBase(folder_ / "a", {});
  const auto p = Publish(folder_ / "a");
  const Digest lost = p->index.blocks.items[5].id;
  p->blocks.blocks.erase(lost);
  p->installation.source = p->blocks.source();
  const Status status = InstallTo(*p, "b");
  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_NE(status.message().find(ToHex(lost)), std::string::npos);
  ExpectNothing("b");
}

// A coordinator's own lies: lists whose blocks have their hashes and which say something else.
TEST_F(InstallTest, AnIndexThatDoesNotFitIsRefused) {
  WriteBase(folder_ / "a", {});
  const auto good = Publish(folder_ / "a");
  const std::vector<std::function<void(Published&)>> lies = {
      [](Published& p) { p.index.files.items[0].name = "../config.json"; },
      [](Published& p) { p.index.files.items[0].name = "run.sh"; },
      [](Published& p) { p.index.files.items[0].name = ".safetensors"; },
      [](Published& p) { p.index.files.items[1].name = p.index.files.items[0].name; },
      [](Published& p) { p.index.files.items[0].bytes += 1; },
      [](Published& p) { p.index.files.items[0].bytes = UINT64_MAX; },
      [](Published& p) { p.index.blocks.items[0].bytes += 1; },
      [](Published& p) { p.index.blocks.items[0].bytes = 0; },
      [](Published& p) { p.index.blocks.items.pop_back(); },
      [](Published& p) { p.index.blocks.items.push_back(p.index.blocks.items[0]); },
      [](Published& p) { p.index.tensors.items[0].file = 7; },
      [](Published& p) { p.index.tensors.items[0].offset = UINT64_MAX; },
      [](Published& p) { p.installation.manifest.base_bytes -= 1; }};
  for (size_t i = 0; i < lies.size(); ++i) {
    Published p;
    p.index = good->index;
    p.blocks = good->blocks;
    p.installation.manifest = good->installation.manifest;
    lies[i](p);
    p.Relist();
    EXPECT_EQ(InstallTo(p, "b").code(), Code::kInvalidArgument) << i;
    ExpectNothing("b");
  }
  // Bytes that have their hashes and are not the base that was promised.
  WriteBase(folder_ / "c", {.seed = 2});
  const auto other = Publish(folder_ / "c");
  other->installation.manifest.base_hash = good->installation.manifest.base_hash;
  EXPECT_EQ(InstallTo(*other, "b").code(), Code::kDataLoss);
  ExpectNothing("b");
}

TEST_F(InstallTest, APatchThatDoesNotFitIsRefusedBeforeItAllocates) {
  WriteBase(folder_ / "a", {});
  WriteBase(folder_ / "b", {.moved = 0.01f});
  const auto good = Publish(folder_ / "b", folder_ / "a");
  const auto first_xor = [](Published& p) -> protocols::PatchPiece& {
    for (auto& piece : p.patch.pieces.items) {
      if (piece.kind == protocols::PatchKind::kXor) return piece;
    }
    std::abort();
  };
  const std::vector<std::function<void(Published&)>> lies = {
      [&](Published& p) { first_xor(p).bytes = UINT32_MAX; },
      [&](Published& p) { first_xor(p).bytes -= 2; },
      [&](Published& p) { first_xor(p).element = 0; },
      [&](Published& p) { first_xor(p).from_file = 99; },
      [&](Published& p) { first_xor(p).from_offset = UINT64_MAX; },
      [&](Published& p) { first_xor(p).patch_bytes -= 1; },
      [&](Published& p) { first_xor(p).kind = protocols::PatchKind::kFull; },
      [&](Published& p) { p.patch.pieces.items.pop_back(); },
      [&](Published& p) { p.patch.blocks.items.pop_back(); },
      [&](Published& p) { p.patch.from.items[0].name = "../a/config.json"; },
      [&](Published& p) { p.installation.manifest.patch_bytes += 1; }};
  for (size_t i = 0; i < lies.size(); ++i) {
    Published p;
    p.index = good->index;
    p.patch = good->patch;
    p.blocks = good->blocks;
    p.installation = good->installation;
    lies[i](p);
    p.Relist();
    EXPECT_EQ(InstallTo(p, "c").code(), Code::kInvalidArgument) << i;
    ExpectNothing("c");
  }
}

// A frame with its hash that says, or holds, more than its piece.
TEST_F(InstallTest, AFrameOfAnotherSizeIsRefused) {
  WriteBase(folder_ / "a", {});
  WriteBase(folder_ / "b", {.moved = 0.01f});
  const auto p = Publish(folder_ / "b", folder_ / "a");
  const Bytes bomb(200u << 20);
  Bytes frame(ZSTD_compressBound(bomb.size()));
  frame.resize(ZSTD_compress(frame.data(), frame.size(), bomb.data(), bomb.size(), 1));
  ASSERT_LT(frame.size(), protocols::kBlockBytes);
  uint64_t total = 0;
  for (auto& piece : p->patch.pieces.items) {
    piece.patch_bytes = piece.kind == protocols::PatchKind::kXor
                            ? static_cast<uint32_t>(frame.size())
                            : piece.patch_bytes;
    total += piece.patch_bytes;
  }
  ASSERT_EQ(total, frame.size()) << "one XOR piece and the rest the same";
  p->patch.blocks.items = {blocks::BlockId(frame)};
  p->blocks.blocks[blocks::BlockId(frame)] = frame;
  p->installation.manifest.patch_bytes = frame.size();
  p->Relist();
  EXPECT_EQ(InstallTo(*p, "c").code(), Code::kDataLoss);
  ExpectNothing("c");
}

TEST(Parts, AreContentsOfTheWire) {
  std::vector<Digest> ids(protocols::kMaxBlocks + 3);
  for (size_t i = 0; i < ids.size(); ++i) StoreLe64(ids[i].data(), i);
  const auto parts = PartsOf(ids);
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].blocks, protocols::kMaxBlocks);
  EXPECT_EQ(parts[1].first, protocols::kMaxBlocks);
  EXPECT_EQ(parts[1].blocks, 3u);
  EXPECT_EQ(parts[1].content, blocks::ContentId(std::span(ids).subspan(protocols::kMaxBlocks)));
  EXPECT_TRUE(PartsOf({}).empty());
}

}  // namespace
}  // namespace tidegate::bases
