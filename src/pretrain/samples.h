// Where pretraining takes its sequences from. One thread at a time.
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "tokens/token_sequence.h"

namespace tidegate::pretrain {

class SampleSource {
 public:
  virtual ~SampleSource() = default;
  virtual int64_t length() const = 0;  // tokens that a sequence feeds
  virtual uint64_t samples_per_epoch() const = 0;
  virtual int64_t vocab_size() const = 0;  // every id is below it
  // Sequence `index` of the endless stream of epochs, in an order that depends on nothing but the
  // seed: length() + 1 tokens, of which each but the first is predicted.
  virtual Status Read(uint64_t index, std::span<int32_t> out) = 0;
  // Equal for equal data and seed.
  virtual uint64_t fingerprint() const = 0;
};

// Sequences `first` … `first + count - 1` of the stream, side by side.
Result<tokens::PackedBatch> ReadBatch(SampleSource& source, uint64_t first, int64_t count);

}  // namespace tidegate::pretrain
