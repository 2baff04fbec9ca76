// A base that a coordinator publishes, as a site's gate and trainer meet it. The first byte says
// what the rest is: the index; the list of a patch's pieces, with the patch of the seed; or the
// patch's own bytes, with the pieces of the seed. Blocks are cut and named right, so that what lies
// behind the hashes is reached.
#include <filesystem>

#include "bases/install.h"
#include "bases/patch.h"
#include "blocks/content.h"
#include "crypto/base_hash.h"
#include "fuzz.h"
#include "tensor/safetensors.h"

namespace tidegate::fuzz {
namespace {

namespace fs = std::filesystem;
using protocols::BaseIndex;
using protocols::BasePatch;

struct Store {
  std::map<Digest, Bytes> blocks;
  bases::BlockSink sink() {
    return [this](const Digest& id, ByteSpan block) {
      blocks[id] = Bytes(block.begin(), block.end());
      return OkStatus();
    };
  }
  bases::BlockSource source() const {
    return [this](const Digest& id) -> Result<Bytes> {
      const auto it = blocks.find(id);
      if (it == blocks.end()) return NotFound("there is no such block");
      return it->second;
    };
  }
};

// Two tensors: one that the new base has moved a little, one that it has as it is.
void WriteModel(const fs::path& dir, bool moved) {
  fs::create_directories(dir);
  Bytes first(512), second(96);
  for (size_t i = 0; i < first.size(); ++i) first[i] = static_cast<uint8_t>(i * 37 / 5);
  if (moved) first[40] ^= 1, first[300] ^= 2;
  for (size_t i = 0; i < second.size(); ++i) second[i] = static_cast<uint8_t>(i);
  const Status written = tensor::WriteSafetensors(
      dir / "model.safetensors",
      {{"a", tensor::DType::kBF16, {16, 16}, first}, {"b", tensor::DType::kF32, {24}, second}}, {});
  Require(written.ok(), "a model is written");
  const std::string config = moved ? R"({"new":true})" : "{}";
  Require(WriteFileDurably(dir / "config.json", AsBytes(config)).ok(), "a config is written");
}

// What is published, made once.
struct Published {
  Folder folder;
  fs::path from, to;
  Store store;
  BaseIndex index;
  bases::MadePatch made;
  Bytes stream;  // of the patch
  protocols::BaseManifest manifest;

  Published() : from(fs::path(folder.path()) / "old"), to(fs::path(folder.path()) / "new") {
    WriteModel(from, false);
    WriteModel(to, true);
    index = *bases::CutBase(to, store.sink());
    made = *bases::MakePatch(from, to, index, store.sink());
    for (const Digest& id : made.patch.blocks.items) {
      stream.insert(stream.end(), store.blocks[id].begin(), store.blocks[id].end());
    }
    Require(made.same > 0 && made.exclusive_or > 0 && made.full > 0, "a patch has all kinds");
    manifest.base_hash = *crypto::BaseHash(to);
    manifest.patch_from = *crypto::BaseHash(from);
    for (const protocols::BaseFile& file : index.files.items) manifest.base_bytes += file.bytes;
  }
};

Published& Base() {
  static Published base;
  return base;
}

// Whatever comes of it, there is a whole base or no folder.
void Install(const Published& base, const Bytes& index, const BasePatch* patch, const Store& more) {
  Store store{base.store.blocks};
  store.blocks.insert(more.blocks.begin(), more.blocks.end());
  bases::Installation installation;
  installation.manifest = base.manifest;
  installation.manifest.index = *bases::PutList(index, store.sink());
  if (patch != nullptr) {
    installation.from = base.from;
    installation.manifest.patch = *bases::PutList(protocols::Encode(*patch), store.sink());
    installation.manifest.patch_bytes = 0;
    for (const Digest& id : patch->blocks.items) {
      installation.manifest.patch_bytes += store.blocks[id].size();
    }
  }
  installation.source = store.source();
  installation.target = fs::path(base.folder.path()) / "target";
  const Status status = bases::Install(installation);
  Require(fs::exists(installation.target) == status.ok(), "a base is there whole or not at all");
  Require(!fs::exists(base.folder.path() + "/target.partial"), "nothing is left behind");
  if (!status.ok()) return;
  Require(*crypto::BaseHash(installation.target) == base.manifest.base_hash,
          "what is installed is the base that was published");
  base.folder.Remove("target");
}

void Index(const Published& base, ByteSpan bytes) {
  const auto index = protocols::Decode<BaseIndex>(bytes);
  if (!index) return;
  uint64_t sum = 0;
  for (const protocols::BaseFile& file : index->files.items) sum += file.bytes;
  if (!bases::CheckIndex(*index, sum).ok()) return;
  uint64_t cut = 0;
  for (const protocols::BaseBlock& block : index->blocks.items) cut += block.bytes;
  Require(cut == sum, "the blocks are the files");
  for (const protocols::BaseFile& file : index->files.items) {
    Require(file.bytes <= sum, "the sum of the files has not wrapped");
    Require(fs::path(file.name.text).filename() == file.name.text && file.name.text[0] != '.',
            "a file lies in its folder");
  }
  Install(base, Bytes(bytes.begin(), bytes.end()), nullptr, {});
}

void Patch(const Published& base, BasePatch patch, ByteSpan stream) {
  Store store;
  patch.blocks.items.clear();
  const auto content = blocks::Cut(stream, [&](const Digest& id, ByteSpan block) {
    Require(store.sink()(id, block).ok(), "a block is kept");
  });
  patch.blocks.items = content.blocks;
  if (!bases::CheckPatch(patch, stream.size(), base.index).ok()) return;
  uint64_t written = 0;
  const Status applied = bases::ApplyPatch(patch, base.from, store.source(), [&](ByteSpan piece) {
    written += piece.size();
    Require(written <= base.manifest.base_bytes, "a patch makes no more than the base");
    return OkStatus();
  });
  Require(!applied.ok() || written == base.manifest.base_bytes, "a patch makes the whole base");
  if (applied.ok()) Install(base, protocols::Encode(base.index), &patch, store);
}

}  // namespace

Target Describe() {
  Target target;
  const Published& base = Base();
  target.seeds = {'\0' + Text(protocols::Encode(base.index)),
                  '\1' + Text(protocols::Encode(base.made.patch)), '\2' + Text(base.stream)};
  // The files' own buffers, and zstd's.
  target.memory = 8u << 20;
  return target;
}

void Run(uint8_t kind, ByteSpan bytes) {
  const Published& base = Base();
  if (kind == 0) return Index(base, bytes);
  if (kind == 2) return Patch(base, base.made.patch, bytes);
  const auto patch = protocols::Decode<BasePatch>(bytes);
  if (patch) Patch(base, *patch, base.stream);
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  tidegate::fuzz::Run(data[0] % 3, {data + 1, size - 1});
  return 0;
}
