// Which sequences share a row, and how a batch is laid out. Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "tokens/token_sequence.h"

namespace tidegate::tokens {

// Indices of the sequences that make one row.
using Row = std::vector<uint32_t>;

// Best-fit decreasing: longest first (then lowest index), each into the fullest row that has room
// (then the oldest). Depends on lengths and capacity alone. A length outside 1..capacity is
// refused.
Result<std::vector<Row>> PlanBestFit(std::span<const int64_t> lengths, int64_t capacity);

// Lays `sequences[indices[0]]`, `sequences[indices[1]]`... end to end. Position 0 of a sequence is
// never a target; its last token predicts nothing.
PackedBatch LayOut(std::span<const TokenSequence> sequences, std::span<const uint32_t> indices);

}  // namespace tidegate::tokens
