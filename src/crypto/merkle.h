// The Merkle tree of RFC 6962 (section 2.1) over SHA-256: an append-only log whose head commits to
// every entry. A frontier is for one thread at a time.
#pragma once

#include <vector>

#include "base/bytes.h"

namespace tidegate::crypto {

// SHA-256(0x00 || entry)
Digest MerkleLeafHash(ByteSpan entry);

// The root of a growing log, in memory of one digest for each set bit of the size.
class MerkleFrontier {
 public:
  void Append(const Digest& leaf_hash);
  uint64_t size() const { return size_; }
  // SHA-256 of nothing for an empty log.
  Digest Root() const;

 private:
  uint64_t size_ = 0;
  std::vector<Digest> peaks_;  // the roots of the perfect subtrees, largest first
};

}  // namespace tidegate::crypto
