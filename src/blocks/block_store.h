// Blocks on disk, named by their SHA-256: DIR/ab/cdef… Bounded by a quota, verified on read.
//
// A block that Put returned OK for is whole and fsynced; its name survives a crash once Sync has
// returned OK. A crash in between loses blocks, never makes wrong ones. One process uses a folder
// at a time; not thread-safe.
#pragma once

#include <filesystem>
#include <set>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"

namespace tidegate::blocks {

class BlockStore {
 public:
  // Makes the folder, removes what a crash left half-written, adds up what is there. Files with
  // other names are left alone and not counted.
  static Result<BlockStore> Open(const std::filesystem::path& dir, uint64_t quota_bytes);

  // kInvalidArgument when the bytes do not have that id, kResourceExhausted over the quota or when
  // the disk is full. A block that is there already is kept.
  Status Put(const Digest& id, ByteSpan block);
  // Makes the names of all blocks put since the last Sync durable.
  Status Sync();

  // kNotFound; kDataLoss (and the block is removed) when the disk gives other bytes.
  Result<Bytes> Get(const Digest& id);
  bool Has(const Digest& id) const;
  // OK when it was not there.
  Status Remove(const Digest& id);
  // In the order of the ids.
  Result<std::vector<Digest>> List() const;
  uint64_t used_bytes() const { return used_; }

 private:
  BlockStore(std::filesystem::path dir, uint64_t quota) : dir_(std::move(dir)), quota_(quota) {}
  std::filesystem::path PathOf(const Digest& id) const;

  std::filesystem::path dir_;
  uint64_t quota_;
  uint64_t used_ = 0;
  std::set<std::filesystem::path> unsynced_;
};

}  // namespace tidegate::blocks
