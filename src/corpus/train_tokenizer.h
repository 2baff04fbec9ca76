// A byte-level BPE tokenizer from text: reads it once, counts words, merges pairs, writes
// tokenizer.json and tokenizer_config.json. The same text and options give the same bytes, whatever
// the number of threads. Thread-safe.
#pragma once

#include "corpus/progress.h"
#include "corpus/tokenizer_files.h"

namespace tidegate::corpus {

struct TrainTokenizerOptions {
  std::vector<std::filesystem::path> inputs;  // see TextSource::FindFiles
  TextOptions text;
  BpeOptions bpe;
  TokenizerOptions tokenizer;
  int threads = 1;
  uint64_t most_word_bytes = uint64_t{2} << 30;  // of the table of words
};

struct TrainedTokenizer {
  size_t vocab_size = 0;
  size_t merges = 0;
  uint64_t files = 0;
  uint64_t text_bytes = 0;
  uint64_t words = 0;          // different ones that were kept
  uint64_t words_dropped = 0;  // occurrences of rare words, for want of memory
  uint64_t bad_lines = 0;
};

// `folder` is made when it is not there. kAlreadyExists when it holds a tokenizer.json.
Result<TrainedTokenizer> TrainTokenizer(const TrainTokenizerOptions& options,
                                        const std::filesystem::path& folder,
                                        const ProgressFunction& progress);

// Pieces of text that are worked on at once: as many as have this many bytes, in the order of the
// text. What is made of them does not depend on threads.
inline constexpr size_t kBatchBytes = 8 << 20;
Result<std::vector<TextPiece>> NextBatch(TextSource& source);

}  // namespace tidegate::corpus
