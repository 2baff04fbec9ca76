// XXH64 (Collet, xxHash specification 0.1.1): a fast 64-bit checksum that finds damaged files and
// tells two inputs apart. It is no defence against somebody who wants a collision: what crosses the
// border is hashed by src/crypto. Not thread-safe; one object per stream.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/bytes.h"

namespace tidegate {

class Checksum {
 public:
  Checksum();
  void Add(ByteSpan bytes);
  // A length-prefixed field, so that ("ab","c") and ("a","bc") differ.
  void AddField(ByteSpan bytes);
  void AddNumber(uint64_t value);
  // Of everything added so far; more may be added after.
  uint64_t Value() const;
  // Value() as 16 lower-case hex digits.
  std::string Hex() const;

 private:
  std::array<uint64_t, 4> lanes_;
  std::array<uint8_t, 32> pending_{};
  size_t pending_size_ = 0;
  uint64_t total_ = 0;
};

uint64_t ChecksumOf(ByteSpan bytes);

}  // namespace tidegate
