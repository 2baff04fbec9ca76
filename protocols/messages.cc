#include "protocols/messages.h"

#include <cstring>

#include "protocols/archive.h"

namespace tidegate::protocols {

std::vector<uint8_t> EncodeChunk(const Chunk& chunk) {
  std::vector<uint8_t> out(kChunkPrefixBytes + chunk.bytes.size());
  const auto length = static_cast<uint32_t>(chunk.bytes.size());
  std::memcpy(out.data(), chunk.content.data(), 32);
  std::memcpy(out.data() + 32, &chunk.index, 4);
  std::memcpy(out.data() + 36, &length, 4);
  if (length != 0) std::memcpy(out.data() + kChunkPrefixBytes, chunk.bytes.data(), length);
  return out;
}

Decoded<Chunk> DecodeChunk(std::span<const uint8_t> body) {
  if (body.size() < kChunkPrefixBytes || body.size() > kMaxChunkBody) {
    return tl::unexpected(
        DecodeError{"a chunk of " + std::to_string(body.size()) + " bytes is out of its limits"});
  }
  Chunk chunk;
  uint32_t length = 0;
  std::memcpy(chunk.content.data(), body.data(), 32);
  std::memcpy(&chunk.index, body.data() + 32, 4);
  std::memcpy(&length, body.data() + 36, 4);
  if (length != body.size() - kChunkPrefixBytes || length == 0 || chunk.index >= kMaxBlocks) {
    return tl::unexpected(DecodeError{"a chunk's length or index does not fit"});
  }
  chunk.bytes = body.subspan(kChunkPrefixBytes);
  return chunk;
}

}  // namespace tidegate::protocols

TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Hello)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Job)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Round)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::AdapterOffer)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::ReceiptMessage)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Abandon)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Offer)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Want)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Credit)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Have)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Commit)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Lease)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::ErrorMessage)
