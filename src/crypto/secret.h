// Key material: zeroed when it dies or moves, cannot be copied, printed or compared with ==.
// Thread-safety: like std::vector (concurrent reads of one object are fine).
#pragma once

#include <algorithm>
#include <array>
#include <ostream>
#include <span>

#include "base/bytes.h"

namespace tidegate::crypto {

// Overwrites memory in a way the compiler may not remove.
void Cleanse(void* data, size_t size);

// Compares in time that depends on the lengths alone. Different lengths are unequal.
[[nodiscard]] bool Equal(ByteSpan a, ByteSpan b);

// N secret bytes, held in the object. A new one is all zero.
template <size_t N>
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::span<const uint8_t, N> bytes) {
    std::copy(bytes.begin(), bytes.end(), bytes_.begin());
  }
  Secret(Secret&& other) noexcept : bytes_(other.bytes_) { other.Erase(); }
  Secret& operator=(Secret&& other) noexcept {
    if (this != &other) {
      bytes_ = other.bytes_;
      other.Erase();
    }
    return *this;
  }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  ~Secret() { Erase(); }

  // The one way to the bytes, greppable.
  std::span<const uint8_t, N> reveal() const { return bytes_; }
  std::span<uint8_t, N> reveal_mutable() { return bytes_; }
  void Erase() { Cleanse(bytes_.data(), N); }

  // For the rare case that two owners need the same key.
  Secret Clone() const { return Secret(reveal()); }

  friend bool operator==(const Secret&, const Secret&) = delete;  // use Equal
  friend std::ostream& operator<<(std::ostream&, const Secret&) = delete;

 private:
  std::array<uint8_t, N> bytes_{};
};

// Secret bytes of a length known at run time; the length never changes, so nothing is left behind
// by a reallocation.
class SecretBytes {
 public:
  SecretBytes() = default;
  explicit SecretBytes(size_t size) : bytes_(size) {}
  // Takes over the buffer.
  explicit SecretBytes(Bytes&& bytes) : bytes_(std::move(bytes)) {}
  SecretBytes(SecretBytes&& other) noexcept : bytes_(std::move(other.bytes_)) {}
  SecretBytes& operator=(SecretBytes&& other) noexcept;
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;
  ~SecretBytes() { Erase(); }

  ByteSpan reveal() const { return bytes_; }
  std::span<uint8_t> reveal_mutable() { return bytes_; }
  size_t size() const { return bytes_.size(); }
  // Zeroes and empties.
  void Erase();

  friend bool operator==(const SecretBytes&, const SecretBytes&) = delete;  // use Equal
  friend std::ostream& operator<<(std::ostream&, const SecretBytes&) = delete;

 private:
  Bytes bytes_;
};

// A Secret<N> of exactly N bytes; any other length is kInvalidArgument naming `what`.
template <size_t N>
Result<Secret<N>> MakeSecret(ByteSpan bytes, std::string_view what) {
  if (bytes.size() != N) {
    return InvalidArgument("{} has {} bytes, it must have {}", what, bytes.size(), N);
  }
  return Secret<N>(std::span<const uint8_t, N>(bytes.data(), N));
}

}  // namespace tidegate::crypto
