#include "tensor/dtype.h"

#include <array>
#include <cassert>
#include <cstring>

namespace tidegate::tensor {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  size_t size;
};

constexpr std::array<Row, 15> kRows = {{
    {DType::kF32, "F32", 4},
    {DType::kF16, "F16", 2},
    {DType::kBF16, "BF16", 2},
    {DType::kF64, "F64", 8},
    {DType::kI8, "I8", 1},
    {DType::kU8, "U8", 1},
    {DType::kI16, "I16", 2},
    {DType::kU16, "U16", 2},
    {DType::kI32, "I32", 4},
    {DType::kU32, "U32", 4},
    {DType::kI64, "I64", 8},
    {DType::kU64, "U64", 8},
    {DType::kBool, "BOOL", 1},
    {DType::kF8E4M3, "F8_E4M3", 1},
    {DType::kF8E5M2, "F8_E5M2", 1},
}};

}  // namespace

size_t DTypeSize(DType dtype) { return kRows[static_cast<size_t>(dtype)].size; }

std::string_view DTypeName(DType dtype) { return kRows[static_cast<size_t>(dtype)].name; }

std::optional<DType> DTypeFromName(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

void ToFloats(DType dtype, const uint8_t* bytes, std::span<float> out) {
  if (out.empty()) return;
  if (dtype == DType::kF32) {
    std::memcpy(out.data(), bytes, out.size_bytes());
    return;
  }
  assert(dtype == DType::kF16 || dtype == DType::kBF16);
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t word;
    std::memcpy(&word, bytes + 2 * i, 2);
    out[i] = dtype == DType::kF16 ? HalfToFloat(word) : Bf16ToFloat(word);
  }
}

void FromFloats(DType dtype, std::span<const float> values, uint8_t* out) {
  if (values.empty()) return;
  if (dtype == DType::kF32) {
    std::memcpy(out, values.data(), values.size_bytes());
    return;
  }
  assert(dtype == DType::kF16 || dtype == DType::kBF16);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t word = dtype == DType::kF16 ? FloatToHalf(values[i]) : FloatToBf16(values[i]);
    std::memcpy(out + 2 * i, &word, 2);
  }
}

}  // namespace tidegate::tensor
