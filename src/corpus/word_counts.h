// How often each word of a corpus occurs: what a byte-pair encoding is trained on. A word is a
// piece that the pre-tokenizer's pattern cuts, as bytes.
//
// Memory is bounded: where the table grows beyond its limit, the rarest words are dropped (those
// that occurred once so far, then twice, four times, …). What is dropped depends on the text and
// the limit alone, not on threads. Not thread-safe.
#pragma once

#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "corpus/text_source.h"
#include "model/tokenizer_split.h"

namespace tidegate::corpus {

class WordCounts {
 public:
  WordCounts(model::Pattern pattern, uint64_t most_bytes)
      : pattern_(std::move(pattern)), most_bytes_(most_bytes) {}

  // Counts the words of these pieces, on `threads` threads.
  Status Add(std::span<const TextPiece> pieces, int threads);

  struct Word {
    std::string bytes;
    uint64_t count = 0;
  };
  // In byte order. Empties the table.
  std::vector<Word> Take();
  uint64_t dropped() const { return dropped_; }  // occurrences of words that were dropped

 private:
  using Local = std::unordered_map<std::string_view, uint64_t>;
  Status Count(const TextPiece& piece, Local& out) const;
  void Merge(const Local& local);
  void Prune();

  model::Pattern pattern_;
  const uint64_t most_bytes_;
  std::unordered_map<std::string, uint64_t> counts_;
  uint64_t bytes_ = 0;  // that the table takes, about
  uint64_t dropped_ = 0;
};

}  // namespace tidegate::corpus
