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
