// Element types and the conversions between float32 and the two 16-bit floats.
// Thread-safety: pure functions. Conversions round to nearest even, keep signs, infinities and
// NaN (quiet), and do not depend on the host's half-precision instructions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace tidegate::tensor {

// Named as safetensors names them. Stored numbers: never reuse.
enum class DType : uint8_t {
  kF32 = 0,
  kF16 = 1,
  kBF16 = 2,
  kF64 = 3,
  kI8 = 4,
  kU8 = 5,
  kI16 = 6,
  kU16 = 7,
  kI32 = 8,
  kU32 = 9,
  kI64 = 10,
  kU64 = 11,
  kBool = 12,
  kF8E4M3 = 13,
  kF8E5M2 = 14,
};

// Bytes of one element.
size_t DTypeSize(DType dtype);
// "F32", "BF16", "F8_E4M3", ...
std::string_view DTypeName(DType dtype);
// The inverse of DTypeName; nothing for a name we do not know.
std::optional<DType> DTypeFromName(std::string_view name);

inline float Bf16ToFloat(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float HalfToFloat(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t exponent = (value >> 10) & 0x1fu;
  const uint32_t mantissa = value & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  const uint32_t wide = exponent == 31 ? 0xffu : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

inline uint16_t FloatToHalf(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((bits >> 13) & 0x3ffu));
  }
  if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // >= 65520 is infinite
  if (bits < 0x38800000u) {
    // Subnormal: adding 0.5 aligns the mantissa to units of 2^-24 and rounds to nearest even.
    const float shifted = std::bit_cast<float>(bits) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = bits + 0xc8000fffu + ((bits >> 13) & 1u);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

// Converts `out.size()` elements at `bytes` (little-endian, any alignment) to float32. `dtype` is
// kF32, kF16 or kBF16 (the caller has checked); `bytes` holds at least that many elements.
void ToFloats(DType dtype, const uint8_t* bytes, std::span<float> out);
// The inverse, rounding to nearest even; `out` has room for values.size() elements of `dtype`.
void FromFloats(DType dtype, std::span<const float> values, uint8_t* out);

}  // namespace tidegate::tensor
