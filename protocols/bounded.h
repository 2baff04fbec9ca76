// The only types with a length that a message may have. Each carries its maximum, which the archive
// checks, together with the bytes that remain, before it allocates.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tidegate::protocols {

// At most kMax elements of T.
template <typename T, size_t kMax>
struct Bounded {
  static constexpr size_t kMaxSize = kMax;
  std::vector<T> items;

  Bounded() = default;
  Bounded(std::vector<T> values) : items(std::move(values)) {}  // NOLINT: messages are built so
  bool operator==(const Bounded&) const = default;
  size_t size() const { return items.size(); }
  bool fits() const { return items.size() <= kMax; }
};

// At most kMax bytes of printable ASCII (0x20 … 0x7e) and, with kLines, line feeds and UTF-8.
template <size_t kMax, bool kLines = false>
struct BoundedText {
  static constexpr size_t kMaxSize = kMax;
  std::string text;

  BoundedText() = default;
  BoundedText(std::string value) : text(std::move(value)) {}  // NOLINT
  BoundedText(std::string_view value) : text(value) {}        // NOLINT
  BoundedText(const char* value) : text(value) {}             // NOLINT
  bool operator==(const BoundedText&) const = default;
  auto operator<=>(const BoundedText&) const = default;
};

using Id16 = std::array<uint8_t, 16>;
using Hash32 = std::array<uint8_t, 32>;
using PublicKey = std::array<uint8_t, 32>;
using Signature = std::array<uint8_t, 64>;
using Name = BoundedText<64>;

// An enum that may be decoded says its range: specialise EnumRange with first and last.
template <typename E>
struct EnumRange;

}  // namespace tidegate::protocols
