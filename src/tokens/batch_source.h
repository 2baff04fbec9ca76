// Where training takes its batches from, in an order that is a pure function of (seed, epoch).
// One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "tokens/packing.h"

namespace tidegate::tokens {

// A place in the endless stream of epochs: `index` micro-batches of `epoch` are consumed. Saved in
// checkpoints with the source's fingerprint.
struct Cursor {
  uint32_t epoch = 0;
  uint64_t index = 0;
  friend bool operator==(const Cursor&, const Cursor&) = default;
};

class BatchSource {
 public:
  virtual ~BatchSource() = default;

  // The micro-batches of the next optimizer step: `accumulation_steps` (>= 1) of them, fewer at
  // the end of an epoch (a window never spans two epochs), at least one. After the last window of
  // an epoch the cursor is at the start of the next; epochs never end.
  virtual Result<std::vector<PackedBatch>> NextWindow(int accumulation_steps) = 0;

  virtual uint64_t MicroBatchesPerEpoch() const = 0;
  virtual Cursor cursor() const = 0;
  // Goes on from a saved place. kInvalidArgument if the epoch has no such index.
  virtual Status Seek(const Cursor& cursor) = 0;
  // Equal for equal data, options and plan: a checkpoint is resumed only where it matches.
  virtual uint64_t fingerprint() const = 0;

  // Optimizer steps in an epoch.
  uint64_t WindowsPerEpoch(int accumulation_steps) const {
    const auto steps = static_cast<uint64_t>(accumulation_steps);
    return (MicroBatchesPerEpoch() + steps - 1) / steps;
  }
};

struct BatchOptions {
  uint64_t seed = 0;
  bool shuffle = true;  // false: the order of the data, for evaluation
  // true: a micro-batch is `rows_per_batch` rows of at most max_length tokens, each filled with
  // sequences by PlanBestFit. false: a micro-batch is `rows_per_batch` sequences. Neither pads.
  bool packed = true;
  int64_t max_length = 1024;  // tokens; longer sequences are refused
  int64_t rows_per_batch = 1;
};

// The permutation of `count` items for (seed, epoch): Fisher-Yates on counter-based numbers.
std::vector<uint32_t> EpochOrder(uint64_t seed, uint32_t epoch, uint32_t count);

// Batches of sequences in memory. Refuses no sequences, a sequence without a target, a mask of
// another length and options out of range.
Result<std::unique_ptr<BatchSource>> MakeBatchSource(std::vector<TokenSequence> sequences,
                                                     const BatchOptions& options);

}  // namespace tidegate::tokens
