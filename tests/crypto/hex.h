// Hex literals of known answers.
#pragma once

#include <gtest/gtest.h>

#include "base/bytes.h"

namespace tidegate::crypto {

inline Bytes Hex(std::string_view text) {
  auto bytes = FromHex(text);
  if (!bytes) ADD_FAILURE() << "the test's own hex is broken: " << text;
  return bytes ? *bytes : Bytes();
}

inline Bytes Filled(size_t size, uint8_t value) { return Bytes(size, value); }

// first, first+1, ... size bytes.
inline Bytes Counting(size_t size, uint8_t first) {
  Bytes out(size);
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<uint8_t>(first + i);
  return out;
}

}  // namespace tidegate::crypto
