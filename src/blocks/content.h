// Contents: byte strings cut into blocks that are named by their SHA-256. Pure functions.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "protocols/limits.h"

namespace tidegate::blocks {

struct Content {
  Digest id{};  // SHA-256 over the concatenated block ids
  uint64_t bytes = 0;
  std::vector<Digest> blocks;
};

Digest BlockId(ByteSpan block);
Digest ContentId(std::span<const Digest> blocks);

// Blocks of kBlockBytes, the last one shorter; none for no bytes. Calls `sink` with each block.
template <typename Sink>
Content Cut(ByteSpan bytes, Sink&& sink);

// Whether block `index` of a content of `bytes` bytes may have `size` bytes.
bool BlockSizeFits(uint64_t bytes, size_t blocks, uint32_t index, size_t size);

// A bit a block, bit i of byte i/8, as HAVE carries it.
class Bitmap {
 public:
  explicit Bitmap(size_t blocks) : bits_((blocks + 7) / 8, 0), blocks_(blocks) {}
  void Set(size_t i) { bits_[i / 8] |= static_cast<uint8_t>(1u << i % 8); }
  bool Has(size_t i) const { return (bits_[i / 8] >> i % 8 & 1) != 0; }
  size_t count() const;
  bool all() const { return count() == blocks_; }
  size_t size() const { return blocks_; }
  const Bytes& bytes() const { return bits_; }

 private:
  Bytes bits_;
  size_t blocks_;
};

template <typename Sink>
Content Cut(ByteSpan bytes, Sink&& sink) {
  Content content;
  content.bytes = bytes.size();
  for (size_t at = 0; at < bytes.size(); at += protocols::kBlockBytes) {
    const ByteSpan block = bytes.subspan(at, std::min(protocols::kBlockBytes, bytes.size() - at));
    content.blocks.push_back(BlockId(block));
    sink(content.blocks.back(), block);
  }
  content.id = ContentId(content.blocks);
  return content;
}

}  // namespace tidegate::blocks
