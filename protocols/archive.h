// The cereal archives behind Encode and Decode. Included only by the .cc files that instantiate
// messages (TIDEGATE_INSTANTIATE_MESSAGE).
//
// cereal's stock archives resize to a peer's length before they read (nine bytes cost 2 GB); these
// check the length against the type's maximum and against the bytes that remain. A plain vector,
// string, map or pointer in a message does not compile: there is no overload for it here.
#pragma once

#include <bit>
#include <cereal/cereal.hpp>
#include <cmath>
#include <concepts>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "protocols/bounded.h"
#include "protocols/codec.h"

namespace tidegate::protocols {

struct DecodeFailure {
  std::string reason;
};

class WireOutputArchive
    : public cereal::OutputArchive<WireOutputArchive, cereal::AllowEmptyClassElision> {
 public:
  explicit WireOutputArchive(std::vector<uint8_t>& out) : OutputArchive(this), out_(out) {}
  void Raw(const void* data, size_t size) {
    if (size == 0) return;
    const size_t at = out_.size();
    out_.resize(at + size);
    std::memcpy(out_.data() + at, data, size);
  }

 private:
  std::vector<uint8_t>& out_;
};

class WireInputArchive
    : public cereal::InputArchive<WireInputArchive, cereal::AllowEmptyClassElision> {
 public:
  explicit WireInputArchive(std::span<const uint8_t> in) : InputArchive(this), in_(in) {}
  void Raw(void* data, size_t size) {
    if (size > in_.size()) throw DecodeFailure{"the message ends inside a field"};
    if (size != 0) std::memcpy(data, in_.data(), size);
    in_ = in_.subspan(size);
  }
  size_t remaining() const { return in_.size(); }

 private:
  std::span<const uint8_t> in_;
};

}  // namespace tidegate::protocols

CEREAL_SETUP_ARCHIVE_TRAITS(tidegate::protocols::WireInputArchive,
                            tidegate::protocols::WireOutputArchive)

// cereal would store an enum as its integer and load any; ours are range-checked below.
namespace cereal {
template <typename E>
requires std::is_enum_v<E>
struct specialize<tidegate::protocols::WireOutputArchive, E, specialization::non_member_load_save>
    : std::true_type {
};
template <typename E>
requires std::is_enum_v<E>
struct specialize<tidegate::protocols::WireInputArchive, E, specialization::non_member_load_save>
    : std::true_type {
};
}  // namespace cereal

namespace tidegate::protocols {

template <typename T>
concept WireInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>;

// Never defined: with the type's own serialize these are one function too many for cereal, so that
// a type with virtual functions does not compile. What it is would be the peer's word.
template <typename T>
requires std::is_polymorphic_v<T>
void CEREAL_SAVE_FUNCTION_NAME(WireOutputArchive& ar, const T& value);
template <typename T>
requires std::is_polymorphic_v<T>
void CEREAL_LOAD_FUNCTION_NAME(WireInputArchive& ar, T& value);

template <WireInteger T>
void CEREAL_SAVE_FUNCTION_NAME(WireOutputArchive& ar, const T& value) {
  ar.Raw(&value, sizeof(value));
}
template <WireInteger T>
void CEREAL_LOAD_FUNCTION_NAME(WireInputArchive& ar, T& value) {
  ar.Raw(&value, sizeof(value));
}

// A template, or a pointer would be saved as a bool.
template <std::same_as<bool> T>
void CEREAL_SAVE_FUNCTION_NAME(WireOutputArchive& ar, const T& value) {
  const uint8_t byte = value ? 1 : 0;
  ar.Raw(&byte, 1);
}
inline void CEREAL_LOAD_FUNCTION_NAME(WireInputArchive& ar, bool& value) {
  uint8_t byte = 0;
  ar.Raw(&byte, 1);
  if (byte > 1) throw DecodeFailure{"a flag is neither 0 nor 1"};
  value = byte == 1;
}

template <typename T>
requires std::is_floating_point_v<T>
void CEREAL_SAVE_FUNCTION_NAME(WireOutputArchive& ar, const T& value) {
  ar.Raw(&value, sizeof(value));
}
template <typename T>
requires std::is_floating_point_v<T>
void CEREAL_LOAD_FUNCTION_NAME(WireInputArchive& ar, T& value) {
  ar.Raw(&value, sizeof(value));
  if (!std::isfinite(value)) throw DecodeFailure{"a number is not finite"};
}

template <typename E>
requires std::is_enum_v<E>
void CEREAL_SAVE_FUNCTION_NAME(WireOutputArchive& ar, const E& e) {
  const auto value = static_cast<std::underlying_type_t<E>>(e);
  ar.Raw(&value, sizeof(value));
}
template <typename E>
requires std::is_enum_v<E>
void CEREAL_LOAD_FUNCTION_NAME(WireInputArchive& ar, E& e) {
  std::underlying_type_t<E> value;
  ar.Raw(&value, sizeof(value));
  if (value < static_cast<std::underlying_type_t<E>>(EnumRange<E>::kFirst) ||
      value > static_cast<std::underlying_type_t<E>>(EnumRange<E>::kLast)) {
    throw DecodeFailure{std::string(EnumRange<E>::kName) + " " + std::to_string(+value) +
                        " is not known to this version"};
  }
  e = static_cast<E>(value);
}

template <size_t N>
void CEREAL_SAVE_FUNCTION_NAME(WireOutputArchive& ar, const std::array<uint8_t, N>& value) {
  ar.Raw(value.data(), N);
}
template <size_t N>
void CEREAL_LOAD_FUNCTION_NAME(WireInputArchive& ar, std::array<uint8_t, N>& value) {
  ar.Raw(value.data(), N);
}

inline uint32_t LoadLength(WireInputArchive& ar, size_t max, size_t least_bytes_each) {
  uint32_t n = 0;
  ar.Raw(&n, sizeof(n));
  if (n > max) {
    throw DecodeFailure{"a length of " + std::to_string(n) + " is over its limit " +
                        std::to_string(max)};
  }
  if (static_cast<uint64_t>(n) * least_bytes_each > ar.remaining()) {
    throw DecodeFailure{"a length of " + std::to_string(n) + " is over the bytes that remain"};
  }
  return n;
}

inline void SaveLength(WireOutputArchive& ar, size_t size, size_t max) {
  if (size > max) {
    throw std::length_error("a message field of " + std::to_string(size) + " is over its limit " +
                            std::to_string(max));
  }
  const uint32_t n = static_cast<uint32_t>(size);
  ar.Raw(&n, sizeof(n));
}

template <typename T, size_t kMax>
void CEREAL_SAVE_FUNCTION_NAME(WireOutputArchive& ar, const Bounded<T, kMax>& value) {
  SaveLength(ar, value.items.size(), kMax);
  if constexpr (std::is_same_v<T, uint8_t>) {
    ar.Raw(value.items.data(), value.items.size());
  } else {
    for (const T& item : value.items) ar(item);
  }
}
template <typename T, size_t kMax>
void CEREAL_LOAD_FUNCTION_NAME(WireInputArchive& ar, Bounded<T, kMax>& value) {
  const uint32_t n = LoadLength(ar, kMax, 1);
  if constexpr (std::is_same_v<T, uint8_t>) {
    value.items.resize(n);
    ar.Raw(value.items.data(), n);
  } else {
    // Grows with what is really there: an element may be larger than the one byte checked above.
    value.items.clear();
    for (uint32_t i = 0; i < n; ++i) {
      T item{};
      ar(item);
      value.items.push_back(std::move(item));
    }
  }
}

inline void CheckText(const std::string& text, bool lines) {
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    const bool printable = u >= 0x20 && u < 0x7f;
    if (!printable && !(lines && (u == '\n' || u >= 0x80))) {
      throw DecodeFailure{"text holds a character that is not printable"};
    }
  }
}

template <size_t kMax, bool kLines>
void CEREAL_SAVE_FUNCTION_NAME(WireOutputArchive& ar, const BoundedText<kMax, kLines>& value) {
  SaveLength(ar, value.text.size(), kMax);
  ar.Raw(value.text.data(), value.text.size());
}
template <size_t kMax, bool kLines>
void CEREAL_LOAD_FUNCTION_NAME(WireInputArchive& ar, BoundedText<kMax, kLines>& value) {
  value.text.resize(LoadLength(ar, kMax, 1));
  ar.Raw(value.text.data(), value.text.size());
  CheckText(value.text, kLines);
}

template <typename Message>
std::vector<uint8_t> Encode(const Message& message) {
  std::vector<uint8_t> out;
  WireOutputArchive archive(out);
  archive(message);
  return out;
}

template <typename Message>
Decoded<Message> Decode(std::span<const uint8_t> bytes) {
  try {
    WireInputArchive archive(bytes);
    Message message{};
    archive(message);
    if (archive.remaining() != 0) {
      return tl::unexpected(
          DecodeError{std::to_string(archive.remaining()) + " bytes follow the last field"});
    }
    return message;
  } catch (const DecodeFailure& failure) {
    return tl::unexpected(DecodeError{failure.reason});
  }
}

}  // namespace tidegate::protocols

#define TIDEGATE_INSTANTIATE_MESSAGE(Message)                                 \
  template std::vector<uint8_t> tidegate::protocols::Encode(const Message&);  \
  template tidegate::protocols::Decoded<Message> tidegate::protocols::Decode( \
      std::span<const uint8_t>);
