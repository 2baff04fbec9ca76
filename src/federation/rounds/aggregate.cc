#include "federation/rounds/aggregate.h"

#include <algorithm>

#include "base/memory.h"
#include "federation/rounds/aggregate_add.h"
#include "federation/rounds/aggregate_threads.h"

namespace tidegate::federation {
namespace {

using protocols::UpdateTensor;
using protocols::update_detail::kRun;

// Of the sum, in bytes 128 KiB: it stays in a core's cache while every update adds to it.
constexpr uint64_t kCell = 16 * 1024;
constexpr uint64_t kCellsOfATask = 16;

// Where a tensor's part of the flat positions below `flat` ends: at a multiple of a run, so that
// neighbouring cells meet without a gap.
uint64_t Cut(const UpdateTensor& tensor, uint64_t flat) {
  if (flat <= tensor.first_value) return 0;
  return std::min(tensor.count, (flat - tensor.first_value + kRun - 1) / kRun * kRun);
}

void AddCell(const WeightedSum::Contribution& c, uint64_t begin, uint64_t end, AddLoop loop,
             int64_t* sum) {
  const auto& tensors = c.update->tensors();
  // Of those that reach past `begin` the first.
  auto t = std::partition_point(tensors.begin(), tensors.end(), [begin](const UpdateTensor& x) {
    return x.first_value + x.count <= begin;
  });
  for (; t != tensors.end() && t->first_value < end; ++t) {
    const uint64_t first = Cut(*t, begin), last = Cut(*t, end);
    if (first < last) AddValues(loop, *t, first, last, c.weight, sum + t->first_value + first);
  }
}

}  // namespace

WeightedSum::WeightedSum(size_t values) {
  sum_.reserve(values);
  AdviseHugePages(sum_.data(), values * sizeof(int64_t));
  sum_.resize(values, 0);
}

namespace {

uint64_t WeightOf(std::span<const WeightedSum::Contribution> contributions) {
  uint64_t weight = 0;
  for (const auto& c : contributions) weight += c.weight;
  return weight;
}

}  // namespace

Status WeightedSum::Check(std::span<const Contribution> contributions, size_t values,
                          uint64_t weight_before) {
  for (const Contribution& c : contributions) {
    if (c.weight < 1 || c.weight > protocols::kMaxWeight) {
      return InvalidArgument("a weight of {} is not in 1 … {}", c.weight, protocols::kMaxWeight);
    }
    for (const UpdateTensor& t : c.update->tensors()) {
      if (t.first_value + t.count > values) {
        return InvalidArgument("an update has more values than the sum");
      }
    }
  }
  if (WeightOf(contributions) <= kMaxTotalWeight - weight_before) return OkStatus();
  return ResourceExhausted("a sum takes updates of a weight of at most {} together",
                           kMaxTotalWeight);
}

Status WeightedSum::Add(std::span<const Contribution> contributions, unsigned threads) {
  TG_RETURN_IF_ERROR(Check(contributions, sum_.size(), total_weight_));
  const AddLoop loop = FastestAddLoop();
  const uint64_t cells = (sum_.size() + kCell - 1) / kCell;
  OnThreads(threads, (cells + kCellsOfATask - 1) / kCellsOfATask, [&](size_t task) {
    const uint64_t end = std::min(cells, (task + 1) * kCellsOfATask);
    for (uint64_t cell = task * kCellsOfATask; cell < end; ++cell) {
      const uint64_t first = cell * kCell, last = std::min<uint64_t>(first + kCell, sum_.size());
      for (const Contribution& c : contributions) AddCell(c, first, last, loop, sum_.data());
    }
  });
  total_weight_ += WeightOf(contributions);
  return OkStatus();
}

Status WeightedSum::Add(const protocols::UpdateView& update, uint32_t weight) {
  const Contribution one{&update, weight};
  return Add(std::span(&one, 1));
}

}  // namespace tidegate::federation
