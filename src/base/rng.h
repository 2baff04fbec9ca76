// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11). A value is a pure function of
// (seed, purpose, step, index); there is no hidden state, so it is the same under recompute, after
// resume, for any thread count and on every machine. Not for keys: see src/crypto.
#pragma once

#include <array>
#include <cstdint>

namespace tidegate {

// What a stream of numbers is for. The numbers are part of every checkpoint: never reuse.
enum class RngPurpose : uint32_t {
  kInit = 1,
  kDataOrder = 2,
  kDropout = 3,
  kStochasticRounding = 4,
  kSampling = 5,
  kTest = 6,
  kSites = 7,
  kAvailability = 8,  // of sites in a simulation
  kArrival = 9,       // of their updates
};

// The Philox4x32-10 bijection.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Four words for (seed, purpose, step, index).
inline std::array<uint32_t, 4> RandomWords(uint64_t seed, RngPurpose purpose, uint32_t step,
                                           uint64_t index) {
  return Philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), step,
                 static_cast<uint32_t>(purpose)},
                {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

// Uniform in [0, 1) with 24 bits.
inline float UniformFloat(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// A uniform permutation-friendly integer in [0, bound) by 64-bit multiply; bias < 2^-32.
inline uint32_t UniformBelow(uint32_t word, uint32_t bound) {
  return static_cast<uint32_t>((static_cast<uint64_t>(word) * bound) >> 32);
}

}  // namespace tidegate
