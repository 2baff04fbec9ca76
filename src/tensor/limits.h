// Limits of the file formats this module reads. Each is far above any real model and far below
// what would hurt; a file beyond one is refused with the limit's name and value.
#pragma once

#include <cstdint>

namespace tidegate::tensor {

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own cap
inline constexpr uint64_t kMaxSafetensorsIndexBytes = 64ull << 20;
inline constexpr size_t kMaxShards = 4096;
inline constexpr size_t kMaxTensors = 1 << 17;
inline constexpr size_t kMaxRank = 8;
inline constexpr size_t kMaxTensorNameBytes = 1024;

inline constexpr uint64_t kMaxGgufKeys = 1 << 16;
inline constexpr uint64_t kMaxGgufKeyBytes = 65535;  // the format's own cap
inline constexpr uint64_t kMaxGgufStringBytes = 16ull << 20;
inline constexpr uint64_t kMaxGgufArrayItems = 1ull << 24;
inline constexpr uint64_t kMaxGgufAlignment = 1 << 16;
inline constexpr uint32_t kMaxGgufRank = 4;

}  // namespace tidegate::tensor
