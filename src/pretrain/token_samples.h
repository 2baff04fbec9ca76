// Sequences of token shards (tokens/sharded_tokens.h) as pretraining reads them.
#pragma once

#include <filesystem>
#include <memory>

#include "base/status.h"
#include "pretrain/samples.h"

namespace tidegate::pretrain {

// `shuffled`: each epoch in an order of its own, from the seed; else the order of the data.
// kFailedPrecondition when there are fewer than length + 1 tokens.
Result<std::unique_ptr<SampleSource>> OpenSamples(const std::filesystem::path& shards,
                                                  int64_t length, uint64_t seed, bool shuffled);

}  // namespace tidegate::pretrain
