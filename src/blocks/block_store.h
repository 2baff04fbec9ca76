// Blocks on disk, named by their SHA-256: DIR/ab/cdef… Bounded by a quota, verified on read.
//
// A block is written beside its place and gets its name when it is on the disk: by Sync, for all
// that were put since, since their fsyncs cost little together and much apart. Until then a crash
// loses it; a block that has its name is whole. One process uses a folder at a time; not
// thread-safe.
#pragma once

#include <filesystem>
#include <map>
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
  // the disk is full. A block that is there already is kept. Now and then it does a Sync.
  Status Put(const Digest& id, ByteSpan block);
  // Put, for who has just made `id` of these very bytes: each byte is hashed once.
  Status PutHashed(const Digest& id, ByteSpan block);
  // Makes all blocks put since the last Sync durable. After an error those that have no name yet
  // are gone; an error of a Sync within Put is told by the next Sync too.
  Status Sync();

  // kNotFound; kDataLoss (and the block is removed) when the disk gives other bytes.
  Result<Bytes> Get(const Digest& id);
  // As the disk gives it: for a reader that checks the bytes itself, by a tag or a hash.
  Result<Bytes> GetUnverified(const Digest& id) const;
  bool Has(const Digest& id) const;
  // OK when it was not there.
  Status Remove(const Digest& id);
  // In the order of the ids.
  Result<std::vector<Digest>> List() const;
  uint64_t used_bytes() const { return used_; }

 private:
  BlockStore(std::filesystem::path dir, uint64_t quota) : dir_(std::move(dir)), quota_(quota) {}
  std::filesystem::path PathOf(const Digest& id) const;
  std::filesystem::path PlaceOf(const Digest& id) const;  // where it lies now
  Status NameBlocks();
  void ForgetUnnamed();

  std::filesystem::path dir_;
  uint64_t quota_;
  uint64_t used_ = 0;
  std::map<Digest, uint64_t> unnamed_;  // put since the last Sync, with their sizes
  uint64_t unnamed_bytes_ = 0;
  Status lost_;                               // of a Sync within Put
  std::set<std::filesystem::path> unsynced_;  // folders with names that a crash may lose
};

}  // namespace tidegate::blocks
