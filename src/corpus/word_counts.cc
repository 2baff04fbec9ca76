#include "corpus/word_counts.h"

#include <algorithm>

#include "corpus/parallel.h"

namespace tidegate::corpus {
namespace {

// A word in the table, and later in the pair counts.
uint64_t BytesOf(std::string_view word) { return 96 + 12 * word.size(); }

}  // namespace

Status WordCounts::Count(const TextPiece& piece, Local& out) const {
  const std::string_view text = piece.text;
  std::vector<model::Range> matches;
  TG_RETURN_IF_ERROR(pattern_.FindAll(text, matches));
  uint32_t at = 0;
  const auto count = [&](uint32_t begin, uint32_t end) {
    if (begin < end) ++out[text.substr(begin, end - begin)];
  };
  for (const model::Range& match : matches) {
    count(at, match.begin);  // what no alternative matches is a word of its own
    count(match.begin, match.end);
    at = match.end;
  }
  count(at, static_cast<uint32_t>(text.size()));
  return OkStatus();
}

Status WordCounts::Add(std::span<const TextPiece> pieces, int threads) {
  std::vector<Local> locals(pieces.size());
  TG_RETURN_IF_ERROR(
      ForEach(pieces.size(), threads, [&](size_t i) { return Count(pieces[i], locals[i]); }));
  for (const Local& local : locals) Merge(local);
  if (bytes_ > most_bytes_) Prune();
  return OkStatus();
}

void WordCounts::Merge(const Local& local) {
  for (const auto& [word, count] : local) {
    const auto [it, added] = counts_.try_emplace(std::string(word), 0);
    it->second += count;
    if (added) bytes_ += BytesOf(word);
  }
}

void WordCounts::Prune() {
  for (uint64_t most = 1; bytes_ > most_bytes_ / 4 * 3 && !counts_.empty(); most *= 2) {
    std::erase_if(counts_, [&](const auto& word) {
      if (word.second > most) return false;
      bytes_ -= BytesOf(word.first);
      dropped_ += word.second;
      return true;
    });
  }
}

std::vector<WordCounts::Word> WordCounts::Take() {
  std::vector<Word> words;
  words.reserve(counts_.size());
  for (auto it = counts_.begin(); it != counts_.end(); it = counts_.begin()) {
    auto node = counts_.extract(it);
    words.push_back({std::move(node.key()), node.mapped()});
  }
  bytes_ = 0;
  std::sort(words.begin(), words.end(),
            [](const Word& a, const Word& b) { return a.bytes < b.bytes; });
  return words;
}

}  // namespace tidegate::corpus
