// Philox4x32-10 (Salmon et al., SC'11), one block, for the reference. Constants shared with the
// vector version.
#pragma once

#include <cstdint>

namespace tidegate::kernels {

inline constexpr uint32_t kPhiloxM0 = 0xD2511F53, kPhiloxM1 = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxW0 = 0x9E3779B9, kPhiloxW1 = 0xBB67AE85;

// The least word that is kept when a share p of the words is to be dropped: ceil(p·2^32). 2^32 says
// that none is.
inline uint64_t DropoutThreshold(double p) {
  const double scaled = p * 4294967296.0;
  const uint64_t floor = static_cast<uint64_t>(scaled);
  return floor + (static_cast<double>(floor) < scaled ? 1 : 0);
}

}  // namespace tidegate::kernels
