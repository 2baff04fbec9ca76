#include "pretrain/partition.h"

#include <algorithm>

namespace tidegate::pretrain {

Partition::Partition(const model::FlatLayout& layout, int ranks, int rank, int64_t bucket_elements)
    : layout_(layout), local_count_(layout.count / ranks) {
  const int64_t multiple = FlatMultiple(ranks);
  const int64_t size = std::max<int64_t>(1, (bucket_elements + multiple - 1) / multiple) * multiple;
  int64_t local = 0;
  for (int64_t end = layout.count; end > 0;) {
    const int64_t begin = std::max<int64_t>(0, end - size);
    const int64_t piece = (end - begin) / ranks;
    buckets_.push_back({begin, end, begin + rank * piece, local, piece});
    local += piece;
    end = begin;
  }
}

namespace {

// The first tensor that ends beyond `flat`.
size_t TensorAt(const model::FlatLayout& layout, int64_t flat) {
  const auto it = std::upper_bound(
      layout.tensors.begin(), layout.tensors.end(), flat,
      [](int64_t at, const model::FlatTensor& tensor) { return at < tensor.offset; });
  return it == layout.tensors.begin() ? 0 : static_cast<size_t>(it - layout.tensors.begin() - 1);
}

}  // namespace

std::vector<Stretch> Partition::StretchesOf(const Bucket& bucket) const {
  std::vector<Stretch> out;
  const int64_t end = bucket.piece_begin + bucket.piece;
  int64_t at = bucket.piece_begin;
  for (size_t i = TensorAt(layout_, at); at < end; ++i) {
    // What lies between a tensor and the next goes with the first.
    const bool last = i + 1 == layout_.tensors.size();
    const int64_t until = last ? end : std::min(end, layout_.tensors[i + 1].offset);
    const bool decayed = layout_.tensors[i].shape.size() > 1;
    if (!out.empty() && out.back().decayed == decayed) {
      out.back().end = until;
    } else {
      out.push_back({at, until, bucket.local_begin + at - bucket.piece_begin, decayed});
    }
    at = until;
  }
  return out;
}

std::vector<Slice> Partition::Slices() const {
  std::vector<Slice> out;
  for (const Bucket& bucket : buckets_) {
    const int64_t end = bucket.piece_begin + bucket.piece;
    for (size_t i = TensorAt(layout_, bucket.piece_begin); i < layout_.tensors.size(); ++i) {
      const model::FlatTensor& tensor = layout_.tensors[i];
      if (tensor.offset >= end) break;
      const int64_t from = std::max(bucket.piece_begin, tensor.offset);
      const int64_t until = std::min(end, tensor.offset + tensor.count);
      if (from >= until) continue;
      out.push_back({i, from - tensor.offset, until - tensor.offset,
                     bucket.local_begin + from - bucket.piece_begin});
    }
  }
  return out;
}

}  // namespace tidegate::pretrain
