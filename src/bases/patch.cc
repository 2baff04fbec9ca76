#include "bases/patch.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/file.h"
#include "bases/files.h"
#include "blocks/content.h"
#include "tensor/dtype.h"
#include "tensor/safetensors.h"

namespace tidegate::bases {
namespace {

namespace fs = std::filesystem;
using protocols::BasePatch;
using protocols::kBlockBytes;
using protocols::kMaxPatchPiece;
using protocols::PatchKind;
using protocols::PatchPiece;

// Fast, and what remains after the planes is either runs of zeros or noise.
constexpr int kZstdLevel = 3;

// Byte planes of a XOR b; and a XOR the planes' bytes.
Bytes PlanesOfXor(ByteSpan a, ByteSpan b, size_t element) {
  Bytes planes(a.size());
  const size_t count = a.size() / element;
  for (size_t plane = 0; plane < element; ++plane) {
    uint8_t* out = planes.data() + plane * count;
    for (size_t i = 0; i < count; ++i) {
      out[i] = static_cast<uint8_t>(a[i * element + plane] ^ b[i * element + plane]);
    }
  }
  return planes;
}

void XorPlanes(ByteSpan planes, size_t element, Bytes* values) {
  const size_t count = values->size() / element;
  for (size_t plane = 0; plane < element; ++plane) {
    const uint8_t* in = planes.data() + plane * count;
    for (size_t i = 0; i < count; ++i) (*values)[i * element + plane] ^= in[i];
  }
}

Result<Bytes> Compress(ByteSpan bytes) {
  Bytes out(ZSTD_compressBound(bytes.size()));
  const size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), kZstdLevel);
  if (ZSTD_isError(size)) return Internal("zstd: {}", ZSTD_getErrorName(size));
  out.resize(size);
  return out;
}

// To exactly `bytes`, which the caller has bounded: a frame that claims another size is refused
// before anything is allocated.
Result<Bytes> Decompress(ByteSpan frame, uint64_t bytes) {
  if (ZSTD_getFrameContentSize(frame.data(), frame.size()) != bytes) {
    return DataLoss("a frame of the patch does not have the size of its piece");
  }
  Bytes out(bytes);
  const size_t size = ZSTD_decompress(out.data(), out.size(), frame.data(), frame.size());
  if (ZSTD_isError(size) || size != bytes) return DataLoss("a frame of the patch is damaged");
  return out;
}

// The patch as a stream, cut as it comes.
class PatchStream {
 public:
  PatchStream(MadePatch* made, const BlockSink& sink) : made_(*made), sink_(sink) {}
  Status Add(ByteSpan bytes) {
    made_.bytes += bytes.size();
    while (!bytes.empty()) {
      const size_t take = std::min(bytes.size(), kBlockBytes - waiting_.size());
      waiting_.insert(waiting_.end(), bytes.begin(), bytes.begin() + static_cast<long>(take));
      bytes = bytes.subspan(take);
      if (waiting_.size() == kBlockBytes) TG_RETURN_IF_ERROR(Finish());
    }
    return OkStatus();
  }
  Status Finish() {
    if (waiting_.empty()) return OkStatus();
    auto& ids = made_.patch.blocks.items;
    if (ids.size() >= protocols::kMaxBaseBlocks) return ResourceExhausted("the patch is too large");
    ids.push_back(blocks::BlockId(waiting_));
    TG_RETURN_IF_ERROR(sink_(ids.back(), waiting_));
    waiting_.clear();
    return OkStatus();
  }

 private:
  MadePatch& made_;
  const BlockSink& sink_;
  Bytes waiting_;
};

// Where a range of the new base may come from.
struct OldRange {
  uint32_t file = 0;
  uint64_t offset = 0;
  ByteSpan bytes;  // as many as the new range, or none
};

class Maker {
 public:
  Maker(const BlockSink& sink) : stream_(&made_, sink) {}

  Status Open(const fs::path& from) {
    TG_ASSIGN_OR_RETURN(made_.patch.from.items, FilesOf(from));
    for (uint32_t i = 0; i < made_.patch.from.size(); ++i) {
      const std::string& name = made_.patch.from.items[i].name.text;
      TG_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(from / name));
      made_.patch.from.items[i].bytes = mapped.bytes().size();
      old_.push_back(std::move(mapped));
      file_of_[name] = i;
      if (!name.ends_with(".safetensors")) continue;
      TG_ASSIGN_OR_RETURN(const auto parsed,
                          tensor::SafetensorsFile::Parse(old_.back().bytes(), name));
      for (const tensor::TensorView& view : parsed.tensors()) {
        const auto offset = static_cast<uint64_t>(view.bytes.data() - old_.back().bytes().data());
        tensors_[view.name] = {
            std::string(tensor::DTypeName(view.dtype)), view.shape, {i, offset, view.bytes}};
      }
    }
    return OkStatus();
  }

  Status File(const std::string& name, uint32_t number, ByteSpan bytes,
              std::span<const protocols::BaseTensor> tensors) {
    uint64_t at = 0;
    for (const protocols::BaseTensor& tensor : tensors) {
      if (tensor.file != number || tensor.offset < at) continue;
      TG_RETURN_IF_ERROR(Range(bytes.subspan(at, tensor.offset - at), InFile(name, at), 1));
      const auto type = tensor::DTypeFromName(tensor.dtype.text);
      TG_RETURN_IF_ERROR(Range(bytes.subspan(tensor.offset, tensor.bytes), OldOf(tensor),
                               type ? tensor::DTypeSize(*type) : 1));
      at = tensor.offset + tensor.bytes;
    }
    return Range(bytes.subspan(at), InFile(name, at), 1);
  }

  Result<MadePatch> Finish() {
    TG_RETURN_IF_ERROR(stream_.Finish());
    return std::move(made_);
  }

 private:
  struct OldTensor {
    std::string dtype;
    tensor::Shape shape;
    OldRange range;
  };

  OldRange InFile(const std::string& name, uint64_t at) const {
    const auto it = file_of_.find(name);
    if (it == file_of_.end() || at > old_[it->second].bytes().size()) return {};
    return {it->second, at, old_[it->second].bytes().subspan(at)};
  }
  OldRange OldOf(const protocols::BaseTensor& tensor) const {
    const auto it = tensors_.find(tensor.name.text);
    if (it == tensors_.end() || it->second.dtype != tensor.dtype.text ||
        !std::equal(it->second.shape.begin(), it->second.shape.end(), tensor.shape.items.begin(),
                    tensor.shape.items.end(),
                    [](int64_t a, uint64_t b) { return static_cast<uint64_t>(a) == b; })) {
      return {};
    }
    return it->second.range;
  }

  Status Range(ByteSpan now, const OldRange& old, size_t element) {
    const bool paired = old.bytes.size() >= now.size();
    for (size_t at = 0; at < now.size(); at += kMaxPatchPiece) {
      const ByteSpan piece = now.subspan(at, std::min<uint64_t>(kMaxPatchPiece, now.size() - at));
      TG_RETURN_IF_ERROR(Piece(piece, paired ? old.bytes.subspan(at, piece.size()) : ByteSpan{},
                               old.file, old.offset + at, element));
    }
    return OkStatus();
  }

  // The smallest of the three.
  Status Piece(ByteSpan now, ByteSpan old, uint32_t file, uint64_t offset, size_t element) {
    PatchPiece piece;
    piece.bytes = static_cast<uint32_t>(now.size());
    if (made_.patch.pieces.size() >= protocols::kMaxPatchPieces) {
      return ResourceExhausted("the patch has more than {} pieces", protocols::kMaxPatchPieces);
    }
    const bool paired = old.size() == now.size();
    Bytes frame;
    if (paired && std::memcmp(now.data(), old.data(), now.size()) == 0) {
      piece.kind = PatchKind::kSame;
      made_.same += now.size();
    } else {
      if (paired && now.size() % element == 0) {
        TG_ASSIGN_OR_RETURN(frame, Compress(PlanesOfXor(now, old, element)));
      }
      const bool smaller = !frame.empty() && frame.size() < now.size();
      piece.kind = smaller ? PatchKind::kXor : PatchKind::kFull;
      if (smaller) piece.element = static_cast<uint8_t>(element);
      piece.patch_bytes = static_cast<uint32_t>(smaller ? frame.size() : now.size());
      (smaller ? made_.exclusive_or : made_.full) += now.size();
      TG_RETURN_IF_ERROR(stream_.Add(smaller ? ByteSpan(frame) : now));
    }
    if (piece.kind != PatchKind::kFull) {
      piece.from_file = file;
      piece.from_offset = offset;
    }
    made_.patch.pieces.items.push_back(piece);
    return OkStatus();
  }

  MadePatch made_;
  PatchStream stream_;
  std::vector<MappedFile> old_;
  std::map<std::string, uint32_t> file_of_;
  std::map<std::string, OldTensor> tensors_;
};

}  // namespace

Result<MadePatch> MakePatch(const fs::path& from, const fs::path& to,
                            const protocols::BaseIndex& index, const BlockSink& sink) {
  Maker maker(sink);
  TG_RETURN_IF_ERROR(maker.Open(from));
  for (uint32_t i = 0; i < index.files.size(); ++i) {
    const std::string& name = index.files.items[i].name.text;
    TG_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(to / name));
    if (file.bytes().size() != index.files.items[i].bytes) {
      return FailedPrecondition("{} changed while it was read", (to / name).native());
    }
    TG_RETURN_IF_ERROR(maker.File(name, i, file.bytes(), index.tensors.items));
  }
  return maker.Finish();
}

Status ApplyPatch(const BasePatch& patch, const fs::path& from, const BlockSource& source,
                  const std::function<Status(ByteSpan)>& write) {
  std::vector<MappedFile> old;
  for (const protocols::BaseFile& file : patch.from.items) {
    TG_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(from / file.name.text));
    if (mapped.bytes().size() != file.bytes) {
      return FailedPrecondition("{} has {} bytes, the patch is for {}",
                                (from / file.name.text).native(), mapped.bytes().size(),
                                file.bytes);
    }
    old.push_back(std::move(mapped));
  }
  Bytes waiting;  // of the patch, from `at` on
  size_t at = 0, next = 0;
  for (const PatchPiece& piece : patch.pieces.items) {
    while (waiting.size() - at < piece.patch_bytes) {
      if (next >= patch.blocks.size()) return DataLoss("the patch ends early");
      const Digest& id = patch.blocks.items[next++];
      TG_ASSIGN_OR_RETURN(const Bytes block, source(id));
      if (blocks::BlockId(block) != id) return DataLoss("a block of the patch is damaged");
      waiting.erase(waiting.begin(), waiting.begin() + static_cast<long>(std::exchange(at, 0)));
      waiting.insert(waiting.end(), block.begin(), block.end());
    }
    const ByteSpan own = ByteSpan(waiting).subspan(at, piece.patch_bytes);
    at += piece.patch_bytes;
    if (piece.kind == PatchKind::kFull) {
      TG_RETURN_IF_ERROR(write(own));
      continue;
    }
    const ByteSpan before = old[piece.from_file].bytes().subspan(piece.from_offset, piece.bytes);
    if (piece.kind == PatchKind::kSame) {
      TG_RETURN_IF_ERROR(write(before));
      continue;
    }
    TG_ASSIGN_OR_RETURN(const Bytes planes, Decompress(own, piece.bytes));
    Bytes made(before.begin(), before.end());
    XorPlanes(planes, piece.element, &made);
    TG_RETURN_IF_ERROR(write(made));
  }
  return OkStatus();
}

}  // namespace tidegate::bases
