#include "blocks/content.h"

#include "crypto/hash.h"

namespace tidegate::blocks {

Digest BlockId(ByteSpan block) { return crypto::Sha256::Of(block); }

Digest ContentId(std::span<const Digest> blocks) {
  crypto::Sha256 hash;
  for (const Digest& id : blocks) hash.Update(id);
  return hash.Finish();
}

bool BlockSizeFits(uint64_t bytes, size_t blocks, uint32_t index, size_t size) {
  if (index >= blocks || size == 0 || size > protocols::kBlockBytes) return false;
  const bool last = index + 1 == blocks;
  const uint64_t before = static_cast<uint64_t>(index) * protocols::kBlockBytes;
  return last ? before + size == bytes : size == protocols::kBlockBytes;
}

}  // namespace tidegate::blocks
