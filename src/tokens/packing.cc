#include "tokens/packing.h"

#include <algorithm>
#include <numeric>
#include <set>

namespace tidegate::tokens {

Result<std::vector<Row>> PlanBestFit(std::span<const int64_t> lengths, int64_t capacity) {
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 1 || lengths[i] > capacity) {
      return InvalidArgument("sequence {} has {} tokens, a row holds 1 to {}; truncate it first", i,
                             lengths[i], capacity);
    }
  }
  std::vector<uint32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b;
  });
  std::vector<Row> rows;
  std::set<std::pair<int64_t, uint32_t>> room;  // (tokens left, row)
  for (const uint32_t index : order) {
    const int64_t length = lengths[index];
    const auto fit = room.lower_bound({length, 0});
    uint32_t row;
    int64_t left;
    if (fit == room.end()) {
      row = static_cast<uint32_t>(rows.size());
      rows.emplace_back();
      left = capacity;
    } else {
      row = fit->second;
      left = fit->first;
      room.erase(fit);
    }
    rows[row].push_back(index);
    if (left > length) room.insert({left - length, row});
  }
  return rows;
}

PackedBatch LayOut(std::span<const TokenSequence> sequences, std::span<const uint32_t> indices) {
  size_t total = 0;
  for (const uint32_t index : indices) total += sequences[index].ids.size();
  PackedBatch batch;
  for (auto* field : {&batch.ids, &batch.position_ids, &batch.segment_start, &batch.targets}) {
    field->reserve(total);
  }
  for (const uint32_t index : indices) {
    const TokenSequence& sequence = sequences[index];
    const auto start = static_cast<int32_t>(batch.ids.size());
    const size_t length = sequence.ids.size();
    batch.segment_begins.push_back(start);
    batch.sequence_indices.push_back(index);
    for (size_t i = 0; i < length; ++i) {
      const bool target = i + 1 < length && sequence.loss_mask[i + 1] != 0;
      batch.ids.push_back(sequence.ids[i]);
      batch.position_ids.push_back(static_cast<int32_t>(i));
      batch.segment_start.push_back(start);
      batch.targets.push_back(target ? sequence.ids[i + 1] : -1);
      batch.num_targets += target;
    }
  }
  return batch;
}

}  // namespace tidegate::tokens
