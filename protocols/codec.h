// Encode and Decode: structs to canonical bytes and back, through cereal archives of our own
// (protocols/archive.h, private to this module and to the modules that register messages).
//
// Fixed-width little-endian, no padding, no pointers, no polymorphic types. decode∘encode is the
// identity on structs and encode∘decode on bytes: trailing bytes, a bool that is not 0 or 1, an
// enum out of range, a float that is not finite and text with control characters are refused.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace tidegate::protocols {

struct DecodeError {
  std::string reason;  // "field length 9000000000 is over its limit 64", never a peer's text
};

template <typename T>
using Decoded = tl::expected<T, DecodeError>;

// Throws std::length_error when a Bounded field of `message` is over its maximum: our own mistake,
// caught by the callers' construction.
template <typename Message>
std::vector<uint8_t> Encode(const Message& message);

template <typename Message>
Decoded<Message> Decode(std::span<const uint8_t> bytes);

}  // namespace tidegate::protocols
