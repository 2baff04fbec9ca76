// What a rank keeps between two steps: masters and moments of its pieces. And how the masters
// begin. Not thread-safe.
#pragma once

#include <filesystem>

#include "base/status.h"
#include "model/full_model.h"
#include "model/memory.h"
#include "pretrain/partition.h"

namespace tidegate::pretrain {

// Float, where the model's kernels read them.
struct Shard {
  model::AlignedBuffer masters, m, v;  // [local_count]
  int64_t step = 0;                    // done
};

// All zero, at step 0. kResourceExhausted when it does not fit in memory.
Result<Shard> NewShard(const model::FullModel& model, const Partition& partition);

// As transformers initialises these families: matrices normal(0, initializer_range 0.02), norms 1,
// biases 0. A value depends on the seed and its place in the tensor alone.
void InitialiseMasters(const model::FullModel& model, const Partition& partition, uint64_t seed,
                       Shard* shard);

// From an HF folder of the same architecture, for continued pretraining.
Status LoadMasters(const std::filesystem::path& base, const model::FullModel& model,
                   const Partition& partition, Shard* shard);

}  // namespace tidegate::pretrain
