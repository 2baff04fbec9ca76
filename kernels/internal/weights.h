// The prepared form of a weight matrix in all backends: the caller's row-major [n,k] copy,
// borrowed. One copy serves x Wᵀ and dy W, since oneDNN packs blocks of it on the fly.
#pragma once

#include "kernels/linear.h"
#include "kernels/quantize.h"

namespace tidegate::kernels {

class StoredWeights : public PreparedWeights {
 public:
  explicit StoredWeights(const WeightSource& source)
      : PreparedWeights(source.n, source.k), format_(source.format), data_(source.data) {}
  WeightFormat format() const { return format_; }
  const void* data() const { return data_; }
  // Of a quantized format; of others the data alone.
  QuantizedView view() const {
    if (IsQuantized(format_)) return ViewOf(format_, n(), k(), data_);
    return {.codes = static_cast<const uint8_t*>(data_)};
  }
  // Whether the weights lie in this activation type.
  bool LiesAs(DType dtype) const {
    return format_ == (dtype == DType::kBF16  ? WeightFormat::kBF16
                       : dtype == DType::kF32 ? WeightFormat::kF32
                                              : WeightFormat::kF64);
  }

 private:
  WeightFormat format_;
  const void* data_;
};

inline const StoredWeights& Stored(const PreparedWeights* w) {
  return *static_cast<const StoredWeights*>(w);
}

// A bf16 is the upper half of a float.
inline float WidenBF16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof(value));
  return value;
}

}  // namespace tidegate::kernels
