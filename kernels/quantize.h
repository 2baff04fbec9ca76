// Frozen weights in 8 and 4 bits, with the values that bitsandbytes gives them: kInt8 is its
// vector-wise int8, kNf4 and kNf4Double its NF4 without and with double quantization (QLoRA,
// arXiv:2305.14314); an int8 code may be one off theirs where a value lies midway. Nothing is
// trained in these formats; a kernel multiplies by what they unpack to, in the activation type.
//
// A quantized matrix is one block of bytes, each part at a multiple of 64:
//   kInt8       codes: int8 [n,k] · scales: float [n], the largest magnitude of the row
//   kNf4        codes: two a byte, the first in the upper half · scales: float a 64 values
//   kNf4Double  codes as kNf4 · scales: float a 256 scale codes, then their offset · scale codes: a
//               byte for 64 values
// Blocks run over the matrix as it lies, across rows. Thread-safe: pure functions.
#pragma once

#include <array>

#include "kernels/linear.h"

namespace tidegate::kernels {

inline constexpr int64_t kQuantBlock = 64;   // values that share a scale
inline constexpr int64_t kScaleBlock = 256;  // scales that share a scale of their own
extern const std::array<float, 16> kNf4Values;

// 0 for formats that are not quantized.
size_t QuantizedBytes(WeightFormat format, int64_t n, int64_t k);

// w: [n, k] finite floats; out: QuantizedBytes(format, n, k), 64-byte aligned. The same bytes for
// any number of threads. Uses no workspace.
void Quantize(int threads, WeightFormat format, int64_t n, int64_t k, const float* w, void* out);

// Where the parts lie, in bytes from the block's begin, and the size of all; `offset` is that of
// kNf4Double's scales' offset. For who has the block in memory that it can't read.
struct QuantizedLayout {
  size_t scales = 0, scale_codes = 0, offset = 0, total = 0;
};
QuantizedLayout LayoutOf(WeightFormat format, int64_t n, int64_t k);
// What kNf4Double's scale codes stand for.
const std::array<float, 256>& ScaleMap();

// The parts of a quantized matrix.
struct QuantizedView {
  const uint8_t* codes = nullptr;
  const float* scales = nullptr;
  const uint8_t* scale_codes = nullptr;  // kNf4Double alone
  const float* scale_map = nullptr;      // [256], what scale codes stand for
  float offset = 0;
};
QuantizedView ViewOf(WeightFormat format, int64_t n, int64_t k, const void* data);

// What the code of value i is multiplied by.
inline float BlockScale(WeightFormat format, const QuantizedView& view, int64_t block) {
  if (format == WeightFormat::kNf4) return view.scales[block];
  return view.scale_map[view.scale_codes[block]] * view.scales[block / kScaleBlock] + view.offset;
}
inline float RowScale(const QuantizedView& view, int64_t row) { return view.scales[row] / 127.0f; }
inline float ScaleOf(WeightFormat format, const QuantizedView& view, int64_t k, int64_t i) {
  if (format == WeightFormat::kInt8) return RowScale(view, i / k);
  return BlockScale(format, view, i / kQuantBlock);
}

}  // namespace tidegate::kernels
