// The index of a base: made of a folder, and looked at before it is believed. Pure functions but
// for the files that they read.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "protocols/bases.h"

namespace tidegate::bases {

using BlockSink = std::function<Status(const Digest& id, ByteSpan block)>;
using BlockSource = std::function<Result<Bytes>(const Digest& id)>;

// Cuts the folder's files (protocols/documents/base-index.md) and calls `sink` with each block.
// kDataLoss for a damaged safetensors file, kResourceExhausted beyond the limits of
// protocols/bases.h.
Result<protocols::BaseIndex> CutBase(const std::filesystem::path& dir, const BlockSink& sink);

// Whether files, tensors and blocks fit each other and make `base_bytes`. kInvalidArgument.
Status CheckIndex(const protocols::BaseIndex& index, uint64_t base_bytes);

// An encoded index or patch list as blocks, and back: kDataLoss for a block that is another,
// kInvalidArgument for what does not decode. Allocates no more than the list's `bytes`.
Result<protocols::BaseList> PutList(ByteSpan encoded, const BlockSink& sink);
Result<Bytes> GetList(const protocols::BaseList& list, const BlockSource& source);
Status CheckList(const protocols::BaseList& list);

// Blocks as a BlockStore keeps them, of a folder that is only read; each is verified. kNotFound,
// kDataLoss.
BlockSource BlocksIn(const std::filesystem::path& dir);

// The blocks of a base or of a patch as the contents that the wire knows: kMaxBlocks each, the last
// one of fewer.
struct Part {
  Digest content{};
  size_t first = 0;
  uint32_t blocks = 0;
};
std::vector<Part> PartsOf(std::span<const Digest> blocks);
std::vector<Digest> IdsOf(const protocols::BaseIndex& index);

}  // namespace tidegate::bases
