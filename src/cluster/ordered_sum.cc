#include "cluster/ordered_sum.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <vector>

namespace tidegate::cluster {
namespace {

// Elements that are summed at once: the partial sums of all levels stay in the cache.
constexpr size_t kBlock = 1024;

float FromBf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// How an element is stored and what it is added in.
struct F32 {
  using Stored = float;
  using Sum = float;
  static float Load(float value) { return value; }
  static float Store(float value) { return value; }
};
struct F64 {
  using Stored = double;
  using Sum = double;
  static double Load(double value) { return value; }
  static double Store(double value) { return value; }
};
struct Bf16 {
  using Stored = uint16_t;
  using Sum = float;
  static float Load(uint16_t bits) { return FromBf16(bits); }
  static uint16_t Store(float value) { return ToBf16(value); }
};
struct I64 {
  using Stored = uint64_t;  // wraps
  using Sum = uint64_t;
  static uint64_t Load(uint64_t value) { return value; }
  static uint64_t Store(uint64_t value) { return value; }
};
struct U8 {
  using Stored = uint8_t;
  using Sum = uint8_t;
  static uint8_t Load(uint8_t value) { return value; }
  static uint8_t Store(uint8_t value) { return value; }
};

template <typename T>
class Tree {
 public:
  using Stored = typename T::Stored;
  using Sum = typename T::Sum;

  explicit Tree(size_t pieces) : sums_((std::bit_width(pieces) + 1) * kBlock) {}

  void AddBlock(std::span<const void* const> pieces, size_t first, size_t count, Stored* out) {
    // As a binary counter: after r pieces there is one partial sum for each bit that r has.
    size_t depth = 0;
    for (size_t r = 0; r < pieces.size(); ++r) {
      const Stored* piece = static_cast<const Stored*>(pieces[r]) + first;
      Sum* leaf = Level(depth++);
      for (size_t i = 0; i < count; ++i) leaf[i] = T::Load(piece[i]);
      for (size_t carry = r; (carry & 1) != 0; carry >>= 1) Merge(depth--, count);
    }
    while (depth > 1) Merge(depth--, count);
    const Sum* sum = Level(0);
    for (size_t i = 0; i < count; ++i) out[first + i] = T::Store(sum[i]);
  }

 private:
  Sum* Level(size_t depth) { return sums_.data() + depth * kBlock; }
  // The last of `depth` partial sums goes into the one before it.
  void Merge(size_t depth, size_t count) {
    Sum* left = Level(depth - 2);
    const Sum* right = Level(depth - 1);
    for (size_t i = 0; i < count; ++i) left[i] = static_cast<Sum>(left[i] + right[i]);
  }

  std::vector<Sum> sums_;
};

template <typename T>
void SumAs(std::span<const void* const> pieces, void* out, size_t count) {
  Tree<T> tree(pieces.size());
  for (size_t first = 0; first < count; first += kBlock) {
    tree.AddBlock(pieces, first, std::min(kBlock, count - first),
                  static_cast<typename T::Stored*>(out));
  }
}

}  // namespace

void SumOrdered(std::span<const void* const> pieces, void* out, size_t count, DType dtype) {
  assert(!pieces.empty());
  switch (dtype) {
    case DType::kF32:
      return SumAs<F32>(pieces, out, count);
    case DType::kF64:
      return SumAs<F64>(pieces, out, count);
    case DType::kBf16:
      return SumAs<Bf16>(pieces, out, count);
    case DType::kI64:
      return SumAs<I64>(pieces, out, count);
    case DType::kU8:
      return SumAs<U8>(pieces, out, count);
  }
}

}  // namespace tidegate::cluster
