// Blocks on disk, named by their SHA-256: DIR/ab/cdef… Bounded by a quota, verified on read.
//
// A block is written beside its place and gets its name when it is on the disk: by Sync, or a turn
// of 2 MiB at a time, off the caller's thread (file_tasks.h). Until then a crash loses it; a block
// that has its name is whole. Files of whole blocks that were removed soon are written over: up to
// 64 MiB of them wait for that, within the quota. One process uses a folder at a time; not
// thread-safe.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/bytes.h"
#include "base/file.h"
#include "base/status.h"
#include "blocks/file_tasks.h"

namespace tidegate::blocks {

class BlockStore {
 public:
  // Makes the folder, removes what a crash left half-written, adds up what is there. Files with
  // other names are left alone and not counted.
  static Result<BlockStore> Open(const std::filesystem::path& dir, uint64_t quota_bytes);

  // kInvalidArgument when the bytes do not have that id, kResourceExhausted over the quota or when
  // the disk is full. A block that is there already is kept. An error may be that of a block
  // before.
  Status Put(const Digest& id, ByteSpan block);
  // Put, for who has just made `id` of these very bytes: each byte is hashed once.
  Status PutHashed(const Digest& id, ByteSpan block);
  // Makes all blocks put since the last Sync durable. After an error those that have no name yet
  // are gone; an error that Put has told is told by the next Sync too.
  Status Sync();

  // kNotFound; kDataLoss (and the block is removed) when the disk gives other bytes.
  Result<Bytes> Get(const Digest& id);
  // As the disk gives it: for a reader that checks the bytes itself, by a tag or a hash.
  Result<Bytes> GetUnverified(const Digest& id) const;
  bool Has(const Digest& id) const;
  // OK when it was not there.
  Status Remove(const Digest& id);
  // It is gone for all calls at once, and from the disk soon: by the next Sync, which tells an
  // error, or the store's end.
  Status RemoveSoon(const Digest& id);
  // In the order of the ids.
  Result<std::vector<Digest>> List() const;
  uint64_t used_bytes() const { return used_; }

 private:
  BlockStore(std::filesystem::path dir, uint64_t quota) : dir_(std::move(dir)), quota_(quota) {}
  std::filesystem::path PathOf(const Digest& id) const;
  struct Unnamed {
    uint64_t size = 0;
    Fd file;  // until it is handed over
    std::filesystem::path temporary;
  };
  // Files that are written, to be made durable and named.
  void HandOver();
  // What became of those.
  void Collect();
  Result<Unnamed> WriteNew(const std::filesystem::path& path, ByteSpan block);

  std::filesystem::path dir_;
  uint64_t quota_;
  uint64_t used_ = 0;
  std::map<Digest, Unnamed> unnamed_;
  uint64_t written_bytes_ = 0;  // not handed over
  std::set<Digest> removing_;
  uint64_t recycled_ = 0;                     // numbers spares
  Status lost_;                               // the first error that no Sync has told
  std::set<std::filesystem::path> unsynced_;  // folders with names that a crash may lose
  std::unique_ptr<FileTasks> tasks_ = std::make_unique<FileTasks>();
};

}  // namespace tidegate::blocks
