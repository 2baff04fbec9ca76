// Secrets of rounds for a database that keeps copies of what it erases (a write-ahead log that is
// archived, dead rows, backups): each is split in two halves whose XOR it is. The row has one, a
// file of the coordinators' shared folder the other; either alone says nothing, and the file is
// overwritten and removed with the round. Private to this module. Not thread-safe.
#pragma once

#include <filesystem>
#include <set>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "crypto/secret.h"

namespace tidegate::federation {

class SplitSecrets {
 public:
  // Makes the folder, for its owner alone.
  static Result<SplitSecrets> Open(const std::filesystem::path& dir);

  // The row's half; the other is on the disk when it returns.
  Result<Bytes> Split(ByteSpan secret) const;
  // kDataLoss when the other half is not there.
  Result<crypto::SecretBytes> Join(ByteSpan half) const;

  // The row no longer has this half; the next Erase takes the other.
  void EraseLater(ByteSpan half) { later_.push_back(PathOf(half)); }
  Status Erase();
  // Erases what has none of these halves: of rounds whose transaction was never committed, or whose
  // erasing a crash came before. Only for who holds the lease since before `halves` was read.
  Status EraseAllBut(const std::vector<Bytes>& halves);

 private:
  explicit SplitSecrets(std::filesystem::path dir) : dir_(std::move(dir)) {}
  // By the half's hash, so that two coordinators never write the same file.
  std::filesystem::path PathOf(ByteSpan half) const;

  std::filesystem::path dir_;
  std::vector<std::filesystem::path> later_;
};

}  // namespace tidegate::federation
