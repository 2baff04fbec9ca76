#include "protocols/messages.h"

#include <cstring>

#include "protocols/archive.h"
#include "protocols/header.h"

namespace tidegate::protocols {

namespace {

std::array<uint8_t, kChunkPrefixBytes> PrefixOf(const Chunk& chunk) {
  std::array<uint8_t, kChunkPrefixBytes> prefix;
  const auto length = static_cast<uint32_t>(chunk.bytes.size());
  std::memcpy(prefix.data(), chunk.content.data(), 32);
  std::memcpy(prefix.data() + 32, &chunk.index, 4);
  std::memcpy(prefix.data() + 36, &length, 4);
  return prefix;
}

}  // namespace

std::vector<uint8_t> EncodeChunk(const Chunk& chunk) {
  const auto prefix = PrefixOf(chunk);
  std::vector<uint8_t> out(prefix.size() + chunk.bytes.size());
  std::memcpy(out.data(), prefix.data(), prefix.size());
  if (!chunk.bytes.empty()) {
    std::memcpy(out.data() + prefix.size(), chunk.bytes.data(), chunk.bytes.size());
  }
  return out;
}

std::vector<uint8_t> FrameChunk(const Id16& federation, uint64_t sequence, const Chunk& chunk) {
  return Frame(MessageType::kChunk, federation, sequence, PrefixOf(chunk), chunk.bytes);
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
