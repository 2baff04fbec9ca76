// Apart from the rest of patch.h: a gate, which unpacks nothing, has no decompressor.
#include "bases/files.h"
#include "bases/patch.h"

namespace tidegate::bases {

using protocols::BasePatch;
using protocols::kBlockBytes;
using protocols::kMaxPatchPiece;
using protocols::PatchKind;
using protocols::PatchPiece;

Status CheckPatch(const BasePatch& patch, uint64_t patch_bytes, const protocols::BaseIndex& index) {
  uint64_t of_patch = 0, made = 0, wanted = 0;
  for (const protocols::BaseFile& file : index.files.items) wanted += file.bytes;
  for (const protocols::BaseFile& file : patch.from.items) {
    if (!IsBaseFileName(file.name.text)) {
      return InvalidArgument("the patch is from a file that is none of a base");
    }
  }
  for (size_t i = 0; i < patch.pieces.size(); ++i) {
    const PatchPiece& p = patch.pieces.items[i];
    const auto bad = [&](std::string_view what) {
      return InvalidArgument("piece {} of the patch {}", i, what);
    };
    if (p.bytes == 0 || p.bytes > kMaxPatchPiece) return bad("is empty or too large");
    if (p.element == 0 || p.bytes % p.element != 0) return bad("has no whole elements");
    const bool fits = p.kind == PatchKind::kSame   ? p.patch_bytes == 0
                      : p.kind == PatchKind::kFull ? p.patch_bytes == p.bytes
                                                   : p.patch_bytes > 0 && p.patch_bytes < p.bytes;
    if (!fits) return bad("has a size that its kind can't have");
    if (p.kind != PatchKind::kFull &&
        (p.from_file >= patch.from.size() || p.bytes > patch.from.items[p.from_file].bytes ||
         p.from_offset > patch.from.items[p.from_file].bytes - p.bytes)) {
      return bad("reaches outside of the old base");
    }
    of_patch += p.patch_bytes;
    made += p.bytes;
  }
  if (made != wanted) return InvalidArgument("the patch's pieces do not make the base's files");
  if (of_patch != patch_bytes ||
      patch.blocks.size() != (patch_bytes + kBlockBytes - 1) / kBlockBytes) {
    return InvalidArgument("the patch's pieces are not of its size");
  }
  return OkStatus();
}

}  // namespace tidegate::bases
