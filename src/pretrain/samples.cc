#include "pretrain/samples.h"

namespace tidegate::pretrain {

Result<tokens::PackedBatch> ReadBatch(SampleSource& source, uint64_t first, int64_t count) {
  const int64_t length = source.length();
  tokens::PackedBatch batch;
  std::vector<int32_t> sample(static_cast<size_t>(length) + 1);
  for (int64_t i = 0; i < count; ++i) {
    TG_RETURN_IF_ERROR(source.Read(first + static_cast<uint64_t>(i), sample));
    const auto begin = static_cast<int32_t>(i * length);
    batch.segment_begins.push_back(begin);
    batch.sequence_indices.push_back(static_cast<uint32_t>(i));
    batch.ids.insert(batch.ids.end(), sample.begin(), sample.end() - 1);
    batch.targets.insert(batch.targets.end(), sample.begin() + 1, sample.end());
    for (int32_t t = 0; t < length; ++t) batch.position_ids.push_back(t);
    batch.segment_start.insert(batch.segment_start.end(), static_cast<size_t>(length), begin);
  }
  batch.num_targets = count * length;
  return batch;
}

}  // namespace tidegate::pretrain
