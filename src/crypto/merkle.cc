#include "crypto/merkle.h"

#include <algorithm>
#include <bit>

#include "crypto/hash.h"

namespace tidegate::crypto {

namespace {

constexpr uint8_t kLeafPrefix[] = {0x00};
constexpr uint8_t kNodePrefix[] = {0x01};

// The largest power of two below `n` (n > 1): where RFC 6962 splits.
uint64_t SplitOf(uint64_t n) { return std::bit_floor(n - 1); }

// Section 2.1.2: SUBPROOF(m, D[n], b).
void SubProof(std::span<const Digest> leaves, uint64_t old_size, bool whole_known,
              std::vector<Digest>* proof) {
  if (old_size == leaves.size()) {
    if (!whole_known) proof->push_back(MerkleRoot(leaves));
    return;
  }
  const uint64_t split = SplitOf(leaves.size());
  if (old_size <= split) {
    SubProof(leaves.first(split), old_size, whole_known, proof);
    proof->push_back(MerkleRoot(leaves.subspan(split)));
  } else {
    SubProof(leaves.subspan(split), old_size - split, false, proof);
    proof->push_back(MerkleRoot(leaves.first(split)));
  }
}

Error ProofLength(size_t has, size_t needs) {
  return Unauthenticated("the Merkle proof has {} digests, for these sizes it has {}", has, needs);
}

}  // namespace

Digest MerkleLeafHash(ByteSpan entry) { return Sha256::Of({ByteSpan(kLeafPrefix), entry}); }

Digest MerkleNodeHash(const Digest& left, const Digest& right) {
  return Sha256::Of({ByteSpan(kNodePrefix), ByteSpan(left), ByteSpan(right)});
}

Result<MerkleFrontier> MerkleFrontier::Restore(uint64_t size, std::vector<Digest> peaks) {
  if (peaks.size() != static_cast<size_t>(std::popcount(size))) {
    return InvalidArgument("a log of {} entries has {} peaks, {} were given", size,
                           std::popcount(size), peaks.size());
  }
  MerkleFrontier frontier;
  frontier.size_ = size;
  frontier.peaks_ = std::move(peaks);
  return frontier;
}

void MerkleFrontier::Append(const Digest& leaf_hash) {
  Digest hash = leaf_hash;
  for (uint64_t rest = size_; (rest & 1) != 0; rest >>= 1) {
    hash = MerkleNodeHash(peaks_.back(), hash);
    peaks_.pop_back();
  }
  peaks_.push_back(hash);
  ++size_;
}

Digest MerkleFrontier::Root() const {
  if (peaks_.empty()) return Sha256::Of(ByteSpan());
  Digest root = peaks_.back();
  for (auto peak = peaks_.rbegin() + 1; peak != peaks_.rend(); ++peak) {
    root = MerkleNodeHash(*peak, root);
  }
  return root;
}

Digest MerkleRoot(std::span<const Digest> leaf_hashes) {
  MerkleFrontier frontier;
  for (const Digest& leaf : leaf_hashes) frontier.Append(leaf);
  return frontier.Root();
}

Result<std::vector<Digest>> MerkleInclusionProof(std::span<const Digest> leaf_hashes,
                                                 uint64_t index) {
  if (index >= leaf_hashes.size()) {
    return InvalidArgument("entry {} is not in a log of {} entries", index, leaf_hashes.size());
  }
  std::vector<Digest> proof;
  while (leaf_hashes.size() > 1) {
    const uint64_t split = SplitOf(leaf_hashes.size());
    if (index < split) {
      proof.push_back(MerkleRoot(leaf_hashes.subspan(split)));
      leaf_hashes = leaf_hashes.first(split);
    } else {
      proof.push_back(MerkleRoot(leaf_hashes.first(split)));
      leaf_hashes = leaf_hashes.subspan(split);
      index -= split;
    }
  }
  std::reverse(proof.begin(), proof.end());  // from the leaf up
  return proof;
}

Result<std::vector<Digest>> MerkleConsistencyProof(std::span<const Digest> leaf_hashes,
                                                   uint64_t old_size) {
  if (old_size > leaf_hashes.size()) {
    return InvalidArgument("a log of {} entries cannot continue one of {}", leaf_hashes.size(),
                           old_size);
  }
  std::vector<Digest> proof;
  if (old_size != 0) SubProof(leaf_hashes, old_size, true, &proof);
  return proof;
}

Status VerifyMerkleInclusion(const Digest& leaf_hash, uint64_t index, uint64_t size,
                             std::span<const Digest> proof, const Digest& root) {
  if (index >= size) {
    return Unauthenticated("entry {} cannot be in a log of {} entries", index, size);
  }
  // Below the height where the paths of `index` and of the last entry part, both neighbours exist;
  // above it, one for each set bit of the index.
  const uint64_t inner = std::bit_width(index ^ (size - 1));
  const uint64_t border = inner >= 64 ? 0 : static_cast<uint64_t>(std::popcount(index >> inner));
  if (proof.size() != inner + border) return ProofLength(proof.size(), inner + border);
  Digest hash = leaf_hash;
  for (size_t i = 0; i < proof.size(); ++i) {
    const bool is_right = i >= inner || ((index >> i) & 1) != 0;
    hash = is_right ? MerkleNodeHash(proof[i], hash) : MerkleNodeHash(hash, proof[i]);
  }
  if (hash != root) {
    return Unauthenticated("the proof does not lead from entry {} to the head of the log", index);
  }
  return OkStatus();
}

Status VerifyMerkleConsistency(uint64_t old_size, const Digest& old_root, uint64_t new_size,
                               const Digest& new_root, std::span<const Digest> proof) {
  if (old_size > new_size) {
    return Unauthenticated("a log of {} entries cannot continue one of {}", new_size, old_size);
  }
  if (old_size == 0 || old_size == new_size) {
    if (!proof.empty()) return ProofLength(proof.size(), 0);
    if (old_size == 0 ? old_root != Sha256::Of(ByteSpan()) : old_root != new_root) {
      return Unauthenticated("two heads of a log with {} entries differ", old_size);
    }
    return OkStatus();
  }
  // RFC 9162, 2.1.4.2. `fn` and `sn` are the last entries of the old and the new log.
  uint64_t fn = old_size - 1;
  uint64_t sn = new_size - 1;
  const int shift = std::countr_one(fn);
  fn >>= shift;
  sn >>= shift;
  size_t at = 0;
  Digest old_hash = old_root;  // if the old log is one perfect tree, it starts the path itself
  if (fn != 0) {
    if (proof.empty()) return Unauthenticated("the Merkle consistency proof is empty");
    old_hash = proof[at++];
  }
  Digest new_hash = old_hash;
  for (; at < proof.size(); ++at) {
    if (sn == 0) return Unauthenticated("the Merkle consistency proof is too long");
    if ((fn & 1) != 0 || fn == sn) {
      old_hash = MerkleNodeHash(proof[at], old_hash);
      new_hash = MerkleNodeHash(proof[at], new_hash);
      while ((fn & 1) == 0 && fn != 0) {
        fn >>= 1;
        sn >>= 1;
      }
    } else {
      new_hash = MerkleNodeHash(new_hash, proof[at]);
    }
    fn >>= 1;
    sn >>= 1;
  }
  if (sn != 0) return Unauthenticated("the Merkle consistency proof is too short");
  if (old_hash != old_root || new_hash != new_root) {
    return Unauthenticated("the log of {} entries does not continue the one of {}", new_size,
                           old_size);
  }
  return OkStatus();
}

}  // namespace tidegate::crypto
