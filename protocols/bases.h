// Base models that a coordinator publishes (docs/formats/base-publishing.md): the signed manifest,
// the lists that it names, and the notice that takes one back.
//
// A base is a folder of files. All of them, one after the other, are cut into blocks of at most
// kBlockBytes: a new one at the start of each file and of each tensor that is a block or larger.
// The list of them, the index, is a content of its own, whose block ids are in the manifest; so a
// manifest stays small whatever the base's size, and all that is fetched is named by its hash.
#pragma once

#include <cstdint>

#include "protocols/documents.h"

namespace tidegate::protocols {

inline constexpr size_t kMaxBaseFiles = 1024;
inline constexpr size_t kMaxBaseFileName = 128;
inline constexpr size_t kMaxBaseTensors = 1u << 16;
inline constexpr size_t kMaxDimensions = 8;
inline constexpr size_t kMaxBaseBlocks = 1u << 20;  // 256 GiB, where no block is short
inline constexpr size_t kMaxBaseLicence = 200;
inline constexpr size_t kMaxBaseReason = 200;
inline constexpr size_t kMaxListBlocks = 256;  // of an index or of a patch's list: 64 MiB
inline constexpr uint64_t kMaxListBytes = static_cast<uint64_t>(kBlockBytes) * kMaxListBlocks;
// A patch is made and applied in pieces of at most this: what a site holds in memory of it.
inline constexpr uint64_t kMaxPatchPiece = 32ull << 20;
inline constexpr size_t kMaxPatchPieces = 1u << 17;
// Manifests that a site keeps, and that it is told of when it connects.
inline constexpr size_t kMaxBases = 64;

// The encoded BaseIndex or BasePatch as a content: blocks of kBlockBytes, the last one shorter.
struct BaseList {
  uint64_t bytes = 0;
  Bounded<Hash32, kMaxListBlocks> blocks;
  bool operator==(const BaseList&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(bytes, blocks);
  }
};

// Signed by the coordinator.
struct BaseManifest {
  Id16 federation{};
  Name name;
  uint32_t version = 0;  // of this name, from 1; only grows
  Hash32 previous{};     // SHA-256 of the body of the version before; zero: none
  int64_t created_unix_millis = 0;
  int64_t expires_unix_millis = 0;  // after this no site fetches it
  BoundedText<kMaxBaseLicence> licence;
  Hash32 base_hash{};       // docs/formats/base.md: what jobs and policies name it by
  uint64_t base_bytes = 0;  // of all files
  BaseList index;           // BaseIndex
  Hash32 patch_from{};      // base hash of the base that the patch changes; zero: there is none
  uint64_t patch_bytes = 0;
  BaseList patch;  // BasePatch
  bool operator==(const BaseManifest&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(federation, name, version, previous, created_unix_millis, expires_unix_millis, licence,
       base_hash, base_bytes, index, patch_from, patch_bytes, patch);
  }
};

// Signed by the coordinator, for good: no site fetches this version or works for a job on it.
struct BaseRevocation {
  Id16 federation{};
  Name name;
  uint32_t version = 0;
  Hash32 base_hash{};
  int64_t unix_millis = 0;
  BoundedText<kMaxBaseReason> reason;
  bool operator==(const BaseRevocation&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(federation, name, version, base_hash, unix_millis, reason);
  }
};

struct BaseFile {
  BoundedText<kMaxBaseFileName> name;  // no folder in it
  uint64_t bytes = 0;
  bool operator==(const BaseFile&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(name, bytes);
  }
};

struct BaseTensor {
  BoundedText<kMaxTensorName> name;
  BoundedText<16> dtype;  // as safetensors names it
  Bounded<uint64_t, kMaxDimensions> shape;
  uint32_t file = 0;    // which of the files
  uint64_t offset = 0;  // in it
  uint64_t bytes = 0;
  bool operator==(const BaseTensor&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(name, dtype, shape, file, offset, bytes);
  }
};

struct BaseBlock {
  Hash32 id{};  // SHA-256 of it
  uint32_t bytes = 0;
  bool operator==(const BaseBlock&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(id, bytes);
  }
};

struct BaseIndex {
  Bounded<BaseFile, kMaxBaseFiles> files;        // in byte order of the names
  Bounded<BaseTensor, kMaxBaseTensors> tensors;  // by file and offset
  Bounded<BaseBlock, kMaxBaseBlocks> blocks;     // of all files, in order
  bool operator==(const BaseIndex&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(files, tensors, blocks);
  }
};

// How a piece of the new base comes to be: copied from the old one; the old one's piece XOR what
// the patch has, as byte planes in a zstd frame; or as it is in the patch.
enum class PatchKind : uint8_t { kSame = 1, kXor = 2, kFull = 3 };
template <>
struct EnumRange<PatchKind> {
  static constexpr PatchKind kFirst = PatchKind::kSame, kLast = PatchKind::kFull;
  static constexpr const char* kName = "patch kind";
};

struct PatchPiece {
  PatchKind kind = PatchKind::kFull;
  uint8_t element = 1;       // kXor: bytes of an element, as many planes; else 1
  uint32_t bytes = 0;        // of the new base
  uint32_t patch_bytes = 0;  // of the patch: none for kSame, `bytes` for kFull
  uint32_t from_file = 0;    // kSame, kXor: where in the old base, as many bytes
  uint64_t from_offset = 0;
  bool operator==(const PatchPiece&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(kind, element, bytes, patch_bytes, from_file, from_offset);
  }
};

// Its pieces make the new base's files, one after the other, without a gap.
struct BasePatch {
  Bounded<BaseFile, kMaxBaseFiles> from;  // the old base's files
  Bounded<PatchPiece, kMaxPatchPieces> pieces;
  Bounded<Hash32, kMaxBaseBlocks> blocks;  // of the patch: kBlockBytes each, the last one shorter
  bool operator==(const BasePatch&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(from, pieces, blocks);
  }
};

// coordinator → link, on control: there is this base; this one is taken back.
struct Base {
  Signed manifest;  // BaseManifest
  bool operator==(const Base&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(manifest);
  }
};
struct Revoke {
  Signed notice;  // BaseRevocation
  bool operator==(const Revoke&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(notice);
  }
};

}  // namespace tidegate::protocols
