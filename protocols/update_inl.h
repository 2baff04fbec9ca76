// Inline parts of update.h.
#pragma once

#include <algorithm>
#include <cstring>

namespace tidegate::protocols {

template <typename F>
void ForEachValue(const UpdateTensor& tensor, F&& f) {
  if (!tensor.fixed.empty()) {
    for (uint64_t i = 0; i < tensor.count; ++i) {
      int32_t q;
      std::memcpy(&q, tensor.fixed.data() + 4 * i, 4);
      f(tensor.first_value + i, static_cast<double>(q) * 0x1p-28);
    }
    return;
  }
  for (uint64_t group = 0; group * kInt8Group < tensor.count; ++group) {
    float scale;
    std::memcpy(&scale, tensor.scales.data() + 4 * group, 4);
    const uint64_t end = std::min<uint64_t>(tensor.count, (group + 1) * kInt8Group);
    for (uint64_t i = group * kInt8Group; i < end; ++i) {
      f(tensor.first_value + i, static_cast<double>(tensor.int8[i]) * static_cast<double>(scale));
    }
  }
}

}  // namespace tidegate::protocols
