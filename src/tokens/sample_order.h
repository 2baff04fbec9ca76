// The order of samples in an epoch, without a table of them: a permutation that is computed for
// each place. A pure function of (seed, epoch, count): the same for any number of ranks, and after
// a resume.
#pragma once

#include <cstdint>

namespace tidegate::tokens {

// A Feistel network of six rounds over the smallest even number of bits that holds `count`, its
// round function Philox (base/rng.h); a value that falls outside is sent through again until it
// falls inside ("cycle walking", four times on average at most). Thread-safe.
class SampleOrder {
 public:
  // count >= 1.
  SampleOrder(uint64_t seed, uint32_t epoch, uint64_t count);

  // Which sample is at this place: a bijection of 0 … count - 1.
  uint64_t At(uint64_t place) const;

 private:
  uint64_t Once(uint64_t value) const;

  uint64_t seed_;
  uint32_t epoch_;
  uint64_t count_;
  int half_bits_;
};

}  // namespace tidegate::tokens
