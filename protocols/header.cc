#include "protocols/header.h"

#include <nmmintrin.h>

#include <array>
#include <cstring>
#include <string>

namespace tidegate::protocols {
namespace {

DecodeError Bad(std::string reason) { return DecodeError{std::move(reason)}; }

size_t MaxBody(MessageType type) {
  return type == MessageType::kChunk ? kMaxChunkBody : kMaxControlBody;
}

}  // namespace

const char* MessageTypeName(MessageType type) {
  static constexpr const char* kNames[] = {
      "?",      "HELLO",   "JOB",     "ROUND", "OFFER",   "WANT",  "CREDIT", "CHUNK", "HAVE",
      "COMMIT", "RECEIPT", "ADAPTER", "LEASE", "ABANDON", "ERROR", "BASE",   "REVOKE"};
  const auto i = static_cast<size_t>(type);
  return i < std::size(kNames) ? kNames[i] : "?";
}

uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t crc) {
  uint64_t c = ~crc;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    c = _mm_crc32_u64(c, word);
  }
  for (; i < bytes.size(); ++i) c = _mm_crc32_u8(static_cast<uint32_t>(c), bytes[i]);
  return ~static_cast<uint32_t>(c);
}

std::vector<uint8_t> Frame(MessageType type, const Id16& federation, uint64_t sequence,
                           std::span<const uint8_t> body, std::span<const uint8_t> rest) {
  Header header;
  header.type = static_cast<uint16_t>(type);
  header.federation = federation;
  header.sequence = sequence;
  header.body_bytes = static_cast<uint32_t>(body.size() + rest.size());
  header.body_crc = Crc32c(rest, Crc32c(body));
  std::array<uint8_t, kHeaderBytes> head;
  std::memcpy(head.data(), &header, kHeaderBytes);
  header.header_crc = Crc32c(std::span(head).first(kHeaderBytes - 4));
  std::memcpy(head.data() + kHeaderBytes - 4, &header.header_crc, 4);
  std::vector<uint8_t> out(kHeaderBytes + body.size() + rest.size());
  std::memcpy(out.data(), head.data(), kHeaderBytes);
  uint8_t* to = out.data() + kHeaderBytes;
  for (const auto part : {body, rest}) {
    if (!part.empty()) std::memcpy(to, part.data(), part.size());
    to += part.size();
  }
  return out;
}

Decoded<Parsed> ParseFrame(std::span<const uint8_t> frame, const Id16& federation) {
  if (frame.size() < kHeaderBytes) {
    return tl::unexpected(
        Bad("a frame of " + std::to_string(frame.size()) + " bytes is shorter than the header"));
  }
  Header header;
  std::memcpy(&header, frame.data(), kHeaderBytes);
  if (header.header_crc != Crc32c(frame.first(kHeaderBytes - 4))) {
    return tl::unexpected(Bad("the header's checksum does not match"));
  }
  if (header.magic != kMagic) return tl::unexpected(Bad("not a Tidegate message (magic)"));
  if (header.version != kProtocolVersion) {
    return tl::unexpected(Bad("protocol version " + std::to_string(header.version) +
                              " is not spoken here; this side speaks version " +
                              std::to_string(kProtocolVersion)));
  }
  if (header.federation != federation) {
    return tl::unexpected(Bad("the message is for another federation"));
  }
  if (header.reserved != 0) return tl::unexpected(Bad("a reserved header field is not zero"));
  if (header.type < static_cast<uint16_t>(MessageType::kHello) ||
      header.type > static_cast<uint16_t>(MessageType::kRevoke)) {
    return tl::unexpected(Bad("message type " + std::to_string(header.type) + " is not known"));
  }
  const auto type = static_cast<MessageType>(header.type);
  if (header.body_bytes > MaxBody(type) || header.body_bytes != frame.size() - kHeaderBytes) {
    return tl::unexpected(Bad("a body of " + std::to_string(header.body_bytes) +
                              " bytes does not fit its frame or its limit"));
  }
  const auto body = frame.subspan(kHeaderBytes);
  if (header.body_crc != Crc32c(body)) {
    return tl::unexpected(Bad("the body's checksum does not match"));
  }
  return Parsed{type, header.sequence, body};
}

}  // namespace tidegate::protocols
