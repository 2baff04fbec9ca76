// Guarded buffers of any element type, and the comparison of a kernel with the reference.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/types.h"
#include "tests/kernels/staging.h"
#include "tests/kernels/tested.h"

namespace tidegate::kernels {

// The nearest value that the type holds.
inline double OnGrid(DType dtype, double value) {
  const float narrow = static_cast<float>(value);
  if (dtype == DType::kF64) return value;
  if (dtype == DType::kF32) return narrow;
  uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof(bits));
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  float rounded;
  std::memcpy(&rounded, &bits, sizeof(rounded));
  return rounded;
}

// Uniform in [-amplitude, amplitude), already on the grid of dtype.
inline std::vector<double> RandomValues(DType dtype, int64_t count, uint64_t seed,
                                        double amplitude) {
  std::vector<double> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t word = RandomWords(seed, RngPurpose::kTest, 0, i)[0];
    values[i] = OnGrid(dtype, (2.0 * UniformFloat(word) - 1.0) * amplitude);
  }
  return values;
}

// Elements between two guards; a write outside is found by GuardsIntact. Unlike GuardedArray its
// elements can be set one by one and compared as bits in part.
class Buffer {
 public:
  Buffer(DType dtype, int64_t count)
      : dtype_(dtype),
        count_(static_cast<size_t>(count)),
        bytes_(2 * kGuard + count_ * SizeOf(dtype), kPattern) {}
  Buffer(DType dtype, const std::vector<double>& values)
      : Buffer(dtype, static_cast<int64_t>(values.size())) {
    for (size_t i = 0; i < values.size(); ++i) Set(i, values[i]);
  }

  void* data() { return bytes_.data() + kGuard; }
  const void* data() const { return bytes_.data() + kGuard; }
  // Where the staged op finds the elements.
  void* In(Staging& staging) const {
    return staging.Place(const_cast<uint8_t*>(bytes_.data()), bytes_.size(), kGuard);
  }

  void Set(size_t i, double value) {
    char* at = static_cast<char*>(data()) + i * SizeOf(dtype_);
    const float narrow = static_cast<float>(OnGrid(dtype_, value));
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof(bits));
    const uint16_t upper = static_cast<uint16_t>(bits >> 16);
    if (dtype_ == DType::kF64) std::memcpy(at, &value, 8);
    if (dtype_ == DType::kF32) std::memcpy(at, &narrow, 4);
    if (dtype_ == DType::kBF16) std::memcpy(at, &upper, 2);
  }

  std::vector<double> Values() const {
    std::vector<double> values(count_);
    for (size_t i = 0; i < count_; ++i) {
      const char* at = static_cast<const char*>(data()) + i * SizeOf(dtype_);
      if (dtype_ == DType::kF64) {
        std::memcpy(&values[i], at, 8);
        continue;
      }
      uint32_t bits = 0;
      if (dtype_ == DType::kF32) std::memcpy(&bits, at, 4);
      if (dtype_ == DType::kBF16) std::memcpy(reinterpret_cast<char*>(&bits) + 2, at, 2);
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      values[i] = value;
    }
    return values;
  }

  // The raw bits of elements begin … end-1, for comparisons that must be exact.
  std::string Bits(int64_t begin, int64_t end) const {
    const char* at = static_cast<const char*>(data());
    const size_t size = SizeOf(dtype_);
    return std::string(at + static_cast<size_t>(begin) * size,
                       at + static_cast<size_t>(end) * size);
  }
  std::string Bits() const { return Bits(0, static_cast<int64_t>(count_)); }

  bool GuardsIntact() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (bytes_[i] != kPattern || bytes_[bytes_.size() - 1 - i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr uint8_t kPattern = 0xA5;
  DType dtype_;
  size_t count_;
  std::vector<uint8_t> bytes_;
};

// Largest and root-mean-square difference, as parts of the reference's rms.
struct Difference {
  double largest, rms;
};

inline Difference Compare(const std::vector<double>& got, const std::vector<double>& want) {
  double largest = 0, squares = 0, scale = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = std::abs(got[i] - want[i]);
    if (!(d <= largest)) largest = d;  // takes NaN
    squares += d * d;
    scale += want[i] * want[i];
  }
  const double n = static_cast<double>(want.size());
  // A gradient that is exactly zero has no scale of its own.
  const double unit = std::max(std::sqrt(scale / n), 0.1);
  return {largest / unit, std::sqrt(squares / n) / unit};
}

inline void ExpectClose(const char* what, const std::vector<double>& got,
                        const std::vector<double>& want, double largest, double rms) {
  ASSERT_EQ(got.size(), want.size());
  const Difference d = Compare(got, want);
  EXPECT_TRUE(d.largest <= largest)
      << what << ": largest difference " << d.largest << " of the rms, limit " << largest;
  EXPECT_TRUE(d.rms <= rms) << what << ": rms difference " << d.rms << ", limit " << rms;
}

}  // namespace tidegate::kernels
