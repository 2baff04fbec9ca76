// Who keeps what (ZeRO stage 1): the flat buffers are cut into buckets, each bucket into one piece
// a rank. A rank keeps masters and moments of its pieces alone, side by side in a shard of
// count / ranks elements. Thread-safety: values.
#pragma once

#include <cstdint>
#include <vector>

#include "model/flat_layout.h"

namespace tidegate::pretrain {

// Elements over which one sum of squares is taken. Pieces are multiples of it, so that the norm of
// the gradients is the same sum for any number of ranks.
inline constexpr int64_t kChunk = 1 << 16;

// What the flat count must be a multiple of.
constexpr int64_t FlatMultiple(int ranks) { return ranks * kChunk; }

struct Bucket {
  int64_t begin, end;   // flat
  int64_t piece_begin;  // of this rank, flat
  int64_t local_begin;  // where that lies in its shard
  int64_t piece;        // elements of each rank's piece
};

// A run of the shard whose elements are decayed, or not, together.
struct Stretch {
  int64_t begin, end;  // flat
  int64_t local_begin;
  bool decayed;
};

// A tensor's elements [begin, end) in the shard.
struct Slice {
  size_t tensor;       // in the layout
  int64_t begin, end;  // within the tensor
  int64_t local_begin;
};

class Partition {
 public:
  // `bucket_elements` is rounded up to a multiple of FlatMultiple(ranks).
  Partition(const model::FlatLayout& layout, int ranks, int rank, int64_t bucket_elements);
  // In the order in which a backward pass ends with them: the last of the buffer first.
  const std::vector<Bucket>& buckets() const { return buckets_; }
  int64_t local_count() const { return local_count_; }
  // Of one bucket's piece, ascending. Matrices are decayed; norms and biases are not.
  std::vector<Stretch> StretchesOf(const Bucket& bucket) const;
  std::vector<Slice> Slices() const;

 private:
  const model::FlatLayout& layout_;
  std::vector<Bucket> buckets_;
  int64_t local_count_;
};

}  // namespace tidegate::pretrain
