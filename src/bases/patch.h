// From one base to another: made where it is published, applied into a new folder at a site.
// protocols/documents/base-patch.md. Bit-exact. Not thread-safe.
#pragma once

#include <filesystem>
#include <functional>

#include "bases/index.h"

namespace tidegate::bases {

struct MadePatch {
  protocols::BasePatch patch;
  uint64_t bytes = 0;
  // Bytes of the new base by kind: same, XOR, full.
  uint64_t same = 0, exclusive_or = 0, full = 0;
};

// Tensors are paired by name, type and shape; everything else by file and place. `index` is the new
// folder's. Calls `sink` with each block of the patch.
Result<MadePatch> MakePatch(const std::filesystem::path& from, const std::filesystem::path& to,
                            const protocols::BaseIndex& index, const BlockSink& sink);

// Whether its pieces make exactly the index's files, its sizes add up to `patch_bytes`, and none
// reaches outside of the old base. kInvalidArgument.
Status CheckPatch(const protocols::BasePatch& patch, uint64_t patch_bytes,
                  const protocols::BaseIndex& index);

// Calls `write` with the new base's bytes, piece after piece. The patch was checked; `from` has the
// base hash that it is for. Holds at most three pieces in memory. kDataLoss for a block or a frame
// that is damaged or says another size than its piece.
Status ApplyPatch(const protocols::BasePatch& patch, const std::filesystem::path& from,
                  const BlockSource& source, const std::function<Status(ByteSpan)>& write);

}  // namespace tidegate::bases
