// Inline parts of update.h.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace tidegate::protocols {

// The two numbers of a byte: its low half and its high half, as two's complement.
inline int LowHalf(uint8_t byte) { return static_cast<int8_t>(byte << 4) >> 4; }
inline int HighHalf(uint8_t byte) { return static_cast<int8_t>(byte) >> 4; }

namespace update_detail {

// So many values at once: a multiple of each group, few enough to stay in the nearest cache.
inline constexpr uint64_t kRun = 256;
static_assert(kRun % kInt8Group == 0 && kRun % kInt4Group == 0);

inline double ScaleOf(const UpdateTensor& tensor, uint64_t group) {
  float scale;
  std::memcpy(&scale, tensor.scales.data() + 4 * group, 4);
  return static_cast<double>(scale);
}

// Values first … first + count − 1, at most kRun, `first` a multiple of it. Loops without branches
// and without two pointers that may meet: the compiler makes vectors of them.
inline void DecodeRun(const UpdateTensor& tensor, uint64_t first, uint64_t count, double* out) {
  const uint8_t* const q = tensor.q.data();
  switch (tensor.codec) {
    case Codec::kFixed32: {
      std::array<int32_t, kRun> numbers;
      std::memcpy(numbers.data(), q + 4 * first, 4 * count);
      for (uint64_t i = 0; i < count; ++i) out[i] = static_cast<double>(numbers[i]) * 0x1p-28;
      return;
    }
    case Codec::kBf16: {
      std::array<uint16_t, kRun> bits;
      std::memcpy(bits.data(), q + 2 * first, 2 * count);
      for (uint64_t i = 0; i < count; ++i) {
        out[i] = static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits[i]) << 16));
      }
      return;
    }
    case Codec::kInt8: {
      const double scale = ScaleOf(tensor, first / kInt8Group);
      for (uint64_t i = 0; i < count; ++i) {
        out[i] = static_cast<double>(static_cast<int8_t>(q[first + i])) * scale;
      }
      return;
    }
    case Codec::kInt4: {
      std::array<int8_t, kRun> numbers;
      for (uint64_t i = 0; i < (count + 1) / 2; ++i) {
        numbers[2 * i] = static_cast<int8_t>(LowHalf(q[first / 2 + i]));
        numbers[2 * i + 1] = static_cast<int8_t>(HighHalf(q[first / 2 + i]));
      }
      for (uint64_t begin = 0; begin < count; begin += kInt4Group) {
        const double scale = ScaleOf(tensor, (first + begin) / kInt4Group);
        const uint64_t end = std::min<uint64_t>(count, begin + kInt4Group);
        for (uint64_t i = begin; i < end; ++i) out[i] = static_cast<double>(numbers[i]) * scale;
      }
      return;
    }
  }
}

}  // namespace update_detail

template <typename F>
void ForEachRun(const UpdateTensor& tensor, F&& f) {
  std::array<double, update_detail::kRun> values;
  for (uint64_t first = 0; first < tensor.count; first += values.size()) {
    const uint64_t count = std::min<uint64_t>(values.size(), tensor.count - first);
    update_detail::DecodeRun(tensor, first, count, values.data());
    f(tensor.first_value + first, std::span<const double>(values.data(), count));
  }
}

template <typename F>
void ForEachValue(const UpdateTensor& tensor, F&& f) {
  ForEachRun(tensor, [&f](uint64_t first, std::span<const double> values) {
    for (size_t i = 0; i < values.size(); ++i) f(first + i, values[i]);
  });
}

}  // namespace tidegate::protocols
