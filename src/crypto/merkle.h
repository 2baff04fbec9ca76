// The Merkle tree of RFC 6962 (section 2.1) over SHA-256: an append-only log whose head commits to
// every entry, with proofs that an entry is in it and that one head continues another.
// Thread-safety: pure functions; a frontier is for one thread at a time.
#pragma once

#include <vector>

#include "base/bytes.h"

namespace tidegate::crypto {

// SHA-256(0x00 || entry)
Digest MerkleLeafHash(ByteSpan entry);
// SHA-256(0x01 || left || right)
Digest MerkleNodeHash(const Digest& left, const Digest& right);

// The root of a growing log, in memory of one digest for each set bit of the size.
class MerkleFrontier {
 public:
  MerkleFrontier() = default;
  // From what size() and peaks() gave. kInvalidArgument unless there is a peak for each set bit.
  static Result<MerkleFrontier> Restore(uint64_t size, std::vector<Digest> peaks);

  void Append(const Digest& leaf_hash);
  uint64_t size() const { return size_; }
  // The roots of the perfect subtrees, largest first.
  const std::vector<Digest>& peaks() const { return peaks_; }
  // SHA-256 of nothing for an empty log.
  Digest Root() const;

 private:
  uint64_t size_ = 0;
  std::vector<Digest> peaks_;
};

// From the leaf hashes of the whole log, in order. Time is linear in their number.
Digest MerkleRoot(std::span<const Digest> leaf_hashes);
// That leaf `index` is in the tree of all `leaf_hashes`; kInvalidArgument if it is not one of them.
Result<std::vector<Digest>> MerkleInclusionProof(std::span<const Digest> leaf_hashes,
                                                 uint64_t index);
// That the tree of the first `old_size` leaves is a prefix of the tree of all of them. Empty for
// sizes 0 and equal; kInvalidArgument for an old size beyond the log.
Result<std::vector<Digest>> MerkleConsistencyProof(std::span<const Digest> leaf_hashes,
                                                   uint64_t old_size);

// kUnauthenticated when the proof does not lead from the leaf to the root, or has more or fewer
// digests than the sizes ask for.
Status VerifyMerkleInclusion(const Digest& leaf_hash, uint64_t index, uint64_t size,
                             std::span<const Digest> proof, const Digest& root);
// kUnauthenticated when the new log does not continue the old one.
Status VerifyMerkleConsistency(uint64_t old_size, const Digest& old_root, uint64_t new_size,
                               const Digest& new_root, std::span<const Digest> proof);

}  // namespace tidegate::crypto
