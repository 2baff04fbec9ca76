#include "crypto/merkle.h"

#include "crypto/hash.h"

namespace tidegate::crypto {

namespace {

constexpr uint8_t kLeafPrefix[] = {0x00};
constexpr uint8_t kNodePrefix[] = {0x01};

Digest NodeHash(const Digest& left, const Digest& right) {
  return Sha256::Of({ByteSpan(kNodePrefix), ByteSpan(left), ByteSpan(right)});
}

}  // namespace

Digest MerkleLeafHash(ByteSpan entry) { return Sha256::Of({ByteSpan(kLeafPrefix), entry}); }

void MerkleFrontier::Append(const Digest& leaf_hash) {
  Digest hash = leaf_hash;
  for (uint64_t rest = size_; (rest & 1) != 0; rest >>= 1) {
    hash = NodeHash(peaks_.back(), hash);
    peaks_.pop_back();
  }
  peaks_.push_back(hash);
  ++size_;
}

Digest MerkleFrontier::Root() const {
  if (peaks_.empty()) return Sha256::Of(ByteSpan());
  Digest root = peaks_.back();
  for (auto peak = peaks_.rbegin() + 1; peak != peaks_.rend(); ++peak) root = NodeHash(*peak, root);
  return root;
}

}  // namespace tidegate::crypto
