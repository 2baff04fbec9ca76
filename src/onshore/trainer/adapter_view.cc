#include "onshore/trainer/adapter_view.h"

#include <algorithm>

#include "protocols/strategy.h"

namespace tidegate::trainer {

using protocols::kGroupA;
using protocols::kGroupB;

AdapterView::AdapterView(const std::vector<model::AdapterTensor>& shared,
                         const std::vector<model::AdapterTensor>& trained) {
  for (size_t i = 0; i < shared.size(); ++i) {
    const model::AdapterTensor &s = shared[i], &t = trained.at(i);
    shared_count_ += static_cast<size_t>(s.count());
    trained_count_ += static_cast<size_t>(t.count());
    if (!s.is_b || s.cols == t.cols) {
      runs_.push_back({t.offset, s.offset, s.count(), s.is_b ? kGroupB : kGroupA});
      continue;
    }
    for (int64_t row = 0; row < s.rows; ++row) {
      runs_.push_back({t.offset + row * t.cols, s.offset + row * s.cols, s.cols, kGroupB});
    }
  }
}

void AdapterView::PutShared(std::span<const float> trained, uint8_t groups,
                            std::span<float> shared) const {
  for (const Run& run : runs_) {
    if ((groups >> run.group & 1) == 0) continue;
    std::copy_n(trained.begin() + run.trained, run.count, shared.begin() + run.shared);
  }
}

void AdapterView::Put(std::span<const float> shared, uint8_t groups,
                      std::span<float> trained) const {
  for (const Run& run : runs_) {
    if ((groups >> run.group & 1) == 0) continue;
    std::copy_n(shared.begin() + run.shared, run.count, trained.begin() + run.trained);
  }
}

namespace {

void Append(int64_t begin, int64_t end, train::Ranges* ranges) {
  if (begin == end) return;
  if (!ranges->empty() && ranges->back().end == begin) {
    ranges->back().end = end;
  } else {
    ranges->push_back({begin, end});
  }
}

}  // namespace

train::Ranges AdapterView::RangesOf(uint8_t groups) const {
  train::Ranges ranges;
  for (const Run& run : runs_) {
    if ((groups >> run.group & 1) != 0) Append(run.trained, run.trained + run.count, &ranges);
  }
  return ranges;
}

train::Ranges AdapterView::LocalRanges() const {
  train::Ranges ranges;
  int64_t at = 0;
  for (const Run& run : runs_) {
    Append(at, run.trained, &ranges);
    at = run.trained + run.count;
  }
  Append(at, static_cast<int64_t>(trained_count_), &ranges);
  return ranges;
}

}  // namespace tidegate::trainer
