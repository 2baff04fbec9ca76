// Byte strings and their text forms. Sizes in bytes. Thread-safety: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tidegate {

using Bytes = std::vector<uint8_t>;
using ByteSpan = std::span<const uint8_t>;
using Digest = std::array<uint8_t, 32>;  // SHA-256

inline ByteSpan AsBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}
inline std::string_view AsText(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string ToHex(ByteSpan bytes);
// Lower or upper case, even length, nothing else.
Result<Bytes> FromHex(std::string_view text);
Result<Digest> DigestFromHex(std::string_view text);

// RFC 4648 base64 with padding. Decoding is strict: one text for one byte string (no white space,
// no missing padding, zero trailing bits).
std::string ToBase64(ByteSpan bytes);
Result<Bytes> FromBase64(std::string_view text);

// Fixed-width little-endian; the caller has checked the room.
void StoreLe32(uint8_t* out, uint32_t value);
void StoreLe64(uint8_t* out, uint64_t value);
uint16_t LoadLe16(const uint8_t* in);
uint32_t LoadLe32(const uint8_t* in);
uint64_t LoadLe64(const uint8_t* in);

}  // namespace tidegate
