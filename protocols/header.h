// The fixed header before every message. See header.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "protocols/bounded.h"
#include "protocols/codec.h"
#include "protocols/limits.h"

namespace tidegate::protocols {

inline constexpr uint32_t kMagic = 0x31574754;  // "TGW1"
inline constexpr uint16_t kProtocolVersion = 1;

// Numbers are for ever; a removed one is kept here as "was used for".
enum class MessageType : uint16_t {
  kHello = 1,
  kJob = 2,
  kRound = 3,
  kOffer = 4,
  kWant = 5,
  kCredit = 6,
  kChunk = 7,
  kHave = 8,
  kCommit = 9,
  kReceipt = 10,
  kAdapter = 11,
  kLease = 12,
  kAbandon = 13,
  kError = 14,
  kBase = 15,
  kRevoke = 16,
};
const char* MessageTypeName(MessageType type);

// As it lies in the frame, little-endian.
struct Header {
  uint32_t magic = kMagic;
  uint16_t version = kProtocolVersion;
  uint16_t type = 0;
  Id16 federation{};
  uint64_t sequence = 0;  // the sender's count of messages on this connection; for logs
  uint32_t body_bytes = 0;
  uint32_t reserved = 0;    // must be 0
  uint32_t body_crc = 0;    // CRC-32C of the body
  uint32_t header_crc = 0;  // CRC-32C of the 44 bytes before it
};
static_assert(sizeof(Header) == kHeaderBytes);
static_assert(offsetof(Header, federation) == 8 && offsetof(Header, sequence) == 24);
static_assert(offsetof(Header, body_bytes) == 32 && offsetof(Header, header_crc) == 44);

// CRC-32C (Castagnoli), for damage, not for attack: CURVE and signatures are for that.
uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t crc = 0);

// One whole message: header and body in one frame. The body may come in two parts.
std::vector<uint8_t> Frame(MessageType type, const Id16& federation, uint64_t sequence,
                           std::span<const uint8_t> body, std::span<const uint8_t> rest = {});

struct Parsed {
  MessageType type;
  uint64_t sequence;
  std::span<const uint8_t> body;  // into the frame
};
// Checks in this order: length, header CRC, magic, version (refused by name), federation, reserved,
// type, body length against the type's limit and the frame, body CRC.
Decoded<Parsed> ParseFrame(std::span<const uint8_t> frame, const Id16& federation);

}  // namespace tidegate::protocols
