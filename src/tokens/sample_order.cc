#include "tokens/sample_order.h"

#include <bit>
#include <cassert>

#include "base/rng.h"

namespace tidegate::tokens {

namespace {

constexpr int kRounds = 6;

}  // namespace

SampleOrder::SampleOrder(uint64_t seed, uint32_t epoch, uint64_t count)
    : seed_(seed), epoch_(epoch), count_(count), half_bits_((std::bit_width(count - 1) + 1) / 2) {
  assert(count >= 1);
}

uint64_t SampleOrder::Once(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_;
  uint64_t right = value & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    const auto words =
        RandomWords(seed_, RngPurpose::kDataOrder, epoch_, round << 32 | (right & 0xffffffff));
    const uint64_t next = left ^ (words[0] & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

uint64_t SampleOrder::At(uint64_t place) const {
  assert(place < count_);
  if (count_ == 1) return 0;
  uint64_t value = Once(place);
  while (value >= count_) value = Once(value);
  return value;
}

}  // namespace tidegate::tokens
