#include "corpus/bpe_train.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <unordered_map>

#include "base/limits.h"
#include "base/utf8.h"
#include "model/tokenizer_bpe.h"

namespace tidegate::corpus {
namespace {

// A token has up to two bytes of text for each of its own, and kMaxTokenBytes of text at most.
constexpr uint32_t kMaxMergedBytes = kMaxTokenBytes / 2;

using Pair = uint64_t;  // left id << 32 | right id: compares as the pair does
Pair PairOf(uint32_t left, uint32_t right) { return static_cast<Pair>(left) << 32 | right; }

// Pairs to numbers: open addressing, nothing is ever taken out.
template <typename Value>
class PairMap {
 public:
  Value& operator[](Pair pair) {
    if ((size_ + 1) * 2 > slots_.size()) Grow();
    Slot& slot = Find(slots_, pair);
    if (slot.pair == kNone) {
      slot.pair = pair;
      ++size_;
    }
    return slot.value;
  }

 private:
  static constexpr Pair kNone = ~Pair{0};
  struct Slot {
    Pair pair = kNone;
    Value value{};
  };
  static Slot& Find(std::vector<Slot>& slots, Pair pair) {
    const size_t mask = slots.size() - 1;
    size_t at = (pair * 0x9E3779B97F4A7C15u) >> 20;
    while (slots[at & mask].pair != kNone && slots[at & mask].pair != pair) ++at;
    return slots[at & mask];
  }
  void Grow() {
    std::vector<Slot> larger(std::max<size_t>(1024, slots_.size() * 2));
    for (Slot& slot : slots_) {
      if (slot.pair != kNone) Find(larger, slot.pair) = std::move(slot);
    }
    slots_ = std::move(larger);
  }
  std::vector<Slot> slots_;
  size_t size_ = 0;
};

// A pair that waits to be merged, and the words that it was seen in. Its count may be of the past.
struct Candidate {
  int64_t count;
  Pair pair;
  std::vector<uint32_t> words;
};
bool Later(const Candidate& a, const Candidate& b) {
  return a.count != b.count ? a.count < b.count : a.pair > b.pair;
}

class Trainer {
 public:
  Trainer(const std::vector<WordCounts::Word>& words, const BpeOptions& options)
      : words_(words), options_(options) {}

  Result<BpeVocabulary> Run(const std::function<bool(size_t, size_t)>& progress) {
    AddAlphabet();
    CutWords();
    CountPairs();
    const size_t first = out_.tokens.size();
    while (out_.tokens.size() < options_.vocab_size && !heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), Later);
      Candidate top = std::move(heap_.back());
      heap_.pop_back();
      const int64_t count = pair_counts_[top.pair];
      if (top.count != count) {
        top.count = count;
        if (count > 0) Push(std::move(top));
        continue;
      }
      if (static_cast<uint64_t>(count) < std::max<uint64_t>(options_.min_frequency, 1)) break;
      if (!MergeAll(top)) continue;
      const size_t done = out_.tokens.size() - first;
      if (merges_.size() % 100 == 0 && !progress(done, options_.vocab_size - first)) {
        return Cancelled("training the tokenizer was stopped");
      }
    }
    KeepLastOfEach();
    return std::move(out_);
  }

 private:
  void AddAlphabet() {
    out_.tokens = options_.special_tokens;
    out_.special_tokens = out_.tokens.size();
    for (const std::string& token : out_.tokens) {
      if (auto bytes = model::BytesOfAlphabetText(token)) reserved_.insert(std::move(*bytes));
    }
    // In order of the characters that stand for the bytes.
    std::array<int, 256> order;
    std::iota(order.begin(), order.end(), 0);
    const auto& alphabet = model::ByteAlphabet();
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      return NextUtf8(alphabet[a]).codepoint < NextUtf8(alphabet[b]).codepoint;
    });
    for (const int byte : order) {
      byte_ids_[byte] = static_cast<uint32_t>(out_.tokens.size());
      AddToken(std::string(1, static_cast<char>(byte)));
    }
  }

  void AddToken(std::string bytes) {
    ids_[bytes] = static_cast<uint32_t>(out_.tokens.size());
    sizes_.resize(out_.tokens.size() + 1);
    sizes_.back() = static_cast<uint32_t>(bytes.size());
    out_.tokens.push_back(std::move(bytes));
  }

  void CutWords() {
    begins_.reserve(words_.size());
    lengths_.reserve(words_.size());
    for (const WordCounts::Word& word : words_) {
      begins_.push_back(symbols_.size());
      lengths_.push_back(static_cast<uint32_t>(word.bytes.size()));
      for (const char byte : word.bytes) {
        symbols_.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
      }
    }
  }

  void CountPairs() {
    for (uint32_t word = 0; word < words_.size(); ++word) {
      const uint32_t* symbols = symbols_.data() + begins_[word];
      for (uint32_t i = 0; i + 1 < lengths_[word]; ++i) {
        Change(PairOf(symbols[i], symbols[i + 1]), 1, word);
      }
    }
    PushSeen();
  }

  // A pair occurs once more, or less, in each occurrence of a word.
  void Change(Pair pair, int64_t by, uint32_t word) {
    pair_counts_[pair] += by * static_cast<int64_t>(words_[word].count);
    if (by < 0) return;
    uint32_t& place = seen_place_[pair];
    if (place == 0) {
      seen_.push_back({0, pair, {}});
      place = static_cast<uint32_t>(seen_.size());
    }
    auto& in = seen_[place - 1].words;
    if (in.empty() || in.back() != word) in.push_back(word);
  }

  void PushSeen() {
    for (Candidate& pair : seen_) {
      seen_place_[pair.pair] = 0;
      pair.count = pair_counts_[pair.pair];
      if (pair.count > 0) Push(std::move(pair));
    }
    seen_.clear();
  }

  void Push(Candidate candidate) {
    heap_.push_back(std::move(candidate));
    std::push_heap(heap_.begin(), heap_.end(), Later);
  }

  // The library never takes the merged pair itself out of the counts, and where another pair spells
  // the same token it may come up a second time: so it is here, or the merges would differ.
  // False for what would spell a special token: text alone never makes one.
  bool MergeAll(const Candidate& top) {
    const auto left = static_cast<uint32_t>(top.pair >> 32);
    const auto right = static_cast<uint32_t>(top.pair);
    std::string bytes = out_.tokens[left] + out_.tokens[right];
    if (reserved_.contains(bytes)) return false;
    const auto known = ids_.find(bytes);
    const uint32_t id =
        known != ids_.end() ? known->second : static_cast<uint32_t>(out_.tokens.size());
    if (known == ids_.end()) AddToken(std::move(bytes));
    merges_.emplace_back(left, right);
    for (const uint32_t word : top.words) MergeIn(word, left, right, id);
    PushSeen();
    return true;
  }

  void MergeIn(uint32_t word, uint32_t left, uint32_t right, uint32_t id) {
    uint32_t* symbols = symbols_.data() + begins_[word];
    uint32_t length = lengths_[word];
    const uint32_t size = sizes_[left] + sizes_[right];
    uint32_t to = 0;
    for (uint32_t from = 0; from < length;) {
      if (from + 1 >= length || symbols[from] != left || symbols[from + 1] != right) {
        symbols[to++] = symbols[from++];
        continue;
      }
      if (to > 0) {
        Change(PairOf(symbols[to - 1], left), -1, word);
        if (sizes_[symbols[to - 1]] + size < kMaxMergedBytes) {
          Change(PairOf(symbols[to - 1], id), 1, word);
        }
      }
      from += 2;
      if (from < length) {
        Change(PairOf(right, symbols[from]), -1, word);
        if (sizes_[symbols[from]] + size < kMaxMergedBytes) {
          Change(PairOf(id, symbols[from]), 1, word);
        }
      }
      symbols[to++] = id;
    }
    lengths_[word] = to;
  }

  // A pair that was merged twice stands where it was merged last, as in the library's files.
  void KeepLastOfEach() {
    PairMap<uint32_t> last;
    for (size_t i = 0; i < merges_.size(); ++i) {
      last[PairOf(merges_[i].first, merges_[i].second)] = static_cast<uint32_t>(i);
    }
    for (size_t i = 0; i < merges_.size(); ++i) {
      if (last[PairOf(merges_[i].first, merges_[i].second)] == i) out_.merges.push_back(merges_[i]);
    }
  }

  const std::vector<WordCounts::Word>& words_;
  const BpeOptions& options_;
  BpeVocabulary out_;
  std::vector<std::pair<uint32_t, uint32_t>> merges_;
  std::set<std::string> reserved_;  // bytes whose text is that of a special token
  std::array<uint32_t, 256> byte_ids_{};
  std::unordered_map<std::string, uint32_t> ids_;  // of bytes and merges
  std::vector<uint32_t> sizes_;                    // in bytes, by id
  std::vector<uint32_t> symbols_;                  // of all words
  std::vector<size_t> begins_;
  std::vector<uint32_t> lengths_;
  PairMap<int64_t> pair_counts_;
  std::vector<Candidate> heap_;
  std::vector<Candidate> seen_;   // pairs that came up since the last PushSeen
  PairMap<uint32_t> seen_place_;  // 1 + place in seen_
};

Status CheckOptions(const BpeOptions& options) {
  std::set<std::string_view> names;
  for (const std::string& token : options.special_tokens) {
    if (token.empty() || token.size() > kMaxTokenBytes || ValidUtf8Prefix(token) != token.size()) {
      return InvalidArgument("a special token has {} bytes: 1 to {}, of UTF-8", token.size(),
                             kMaxTokenBytes);
    }
    if (!names.insert(token).second) return InvalidArgument("\"{}\" is given twice", token);
    if (const auto bytes = model::BytesOfAlphabetText(token); bytes && bytes->size() == 1) {
      return InvalidArgument("the special token \"{}\" is the name of a byte; choose a longer one",
                             token);
    }
  }
  const size_t least = 256 + options.special_tokens.size();
  if (options.vocab_size < least || options.vocab_size > kMaxVocabulary) {
    return InvalidArgument("a vocabulary of {} tokens: {} (bytes and special tokens) to {}",
                           options.vocab_size, least, kMaxVocabulary);
  }
  return OkStatus();
}

}  // namespace

Result<BpeVocabulary> TrainBpe(const std::vector<WordCounts::Word>& words,
                               const BpeOptions& options,
                               const std::function<bool(size_t done, size_t all)>& progress) {
  TG_RETURN_IF_ERROR(CheckOptions(options));
  return Trainer(words, options).Run(progress);
}

}  // namespace tidegate::corpus
