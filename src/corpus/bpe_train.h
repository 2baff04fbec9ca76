// Training of a byte-pair encoding as the `tokenizers` library does it, merge for merge: the pair
// that occurs most often is merged next, of equal ones the pair of the smallest ids. Ids are given
// in this order: special tokens, the 256 bytes in order of the characters that stand for them,
// merges.
//
// A pure function of its inputs. Thread-safe.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "corpus/word_counts.h"

namespace tidegate::corpus {

struct BpeOptions {
  size_t vocab_size = 32'000;  // of everything; training ends before where no pair is left
  uint64_t min_frequency = 2;  // pairs that occur less often are not merged
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
};

struct BpeVocabulary {
  std::vector<std::string> tokens;  // by id: special tokens as they are, others as bytes
  size_t special_tokens = 0;        // the first of them
  std::vector<std::pair<uint32_t, uint32_t>> merges;  // ids, in order
};

// `progress` is told of every so many merges; false ends training with kCancelled.
// kInvalidArgument for a vocabulary that has no room for bytes and special tokens, or beyond
// kMaxVocabulary, and for special tokens that are empty, too long or not UTF-8, or given twice.
Result<BpeVocabulary> TrainBpe(const std::vector<WordCounts::Word>& words,
                               const BpeOptions& options,
                               const std::function<bool(size_t done, size_t all)>& progress);

}  // namespace tidegate::corpus
