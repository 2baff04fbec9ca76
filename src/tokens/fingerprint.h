// A stable 64-bit fingerprint (FNV-1a over little-endian bytes) to recognise a data set or a plan
// again after a restart. Not a cryptographic digest: it guards against mistakes, not malice.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace tidegate::tokens {

class Fingerprint {
 public:
  void AddByte(uint8_t byte) { hash_ = (hash_ ^ byte) * 0x100000001b3ull; }
  void AddNumber(uint64_t value) {
    for (int i = 0; i < 8; ++i) AddByte(static_cast<uint8_t>(value >> (8 * i)));
  }
  // Text with its length, so that "ab","c" differs from "a","bc".
  void AddText(std::string_view text) {
    AddNumber(text.size());
    for (const char c : text) AddByte(static_cast<uint8_t>(c));
  }
  void AddIds(std::span<const int32_t> ids) {
    AddNumber(ids.size());
    for (const int32_t id : ids) {
      const auto word = static_cast<uint32_t>(id);
      for (int i = 0; i < 4; ++i) AddByte(static_cast<uint8_t>(word >> (8 * i)));
    }
  }
  void AddBytes(std::span<const uint8_t> bytes) {
    AddNumber(bytes.size());
    for (const uint8_t byte : bytes) AddByte(byte);
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325ull;
};

}  // namespace tidegate::tokens
