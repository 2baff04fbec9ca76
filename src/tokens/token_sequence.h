// Token sequences and the batches that the engine trains on. Values; not thread-safe to mutate.
#pragma once

#include <cstdint>
#include <vector>

namespace tidegate::tokens {

// One example. loss_mask[i] is 1 where ids[i] is a trained target; both have the same length.
// loss_mask[0] is never used: nothing comes before the first token that could predict it.
struct TokenSequence {
  std::vector<int32_t> ids;
  std::vector<uint8_t> loss_mask;
};

// Targets that training on this sequence would count.
inline int64_t CountTargets(const TokenSequence& sequence) {
  int64_t count = 0;
  for (size_t i = 1; i < sequence.loss_mask.size(); ++i) count += sequence.loss_mask[i] != 0;
  return count;
}

// Sequences laid end to end without padding ("varlen"). Token t attends to the tokens
// segment_start[t]..t of its own sequence and to nothing else.
struct PackedBatch {
  std::vector<int32_t> ids;                // [T]
  std::vector<int32_t> position_ids;       // [T], from 0 in each sequence
  std::vector<int32_t> segment_start;      // [T], index in the batch of the sequence's first token
  std::vector<int32_t> targets;            // [T], the id that t must predict, -1 for none
  int64_t num_targets = 0;                 // targets that are not -1
  std::vector<int32_t> segment_begins;     // [S], index in the batch of each sequence's first token
  std::vector<uint32_t> sequence_indices;  // [S], which sequence of the data set it is
};

}  // namespace tidegate::tokens
