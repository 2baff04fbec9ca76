#include "model/tokenizer_bpe.h"

#include <queue>

#include "base/limits.h"
#include "base/utf8.h"

namespace tidegate::model {
namespace {

// GPT-2's table: printable Latin-1 stands for itself, the other bytes for U+0100 onwards.
bool StandsForItself(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

const std::unordered_map<char32_t, uint8_t>& AlphabetBytes() {
  static const auto& table = *new std::unordered_map<char32_t, uint8_t>([] {
    std::unordered_map<char32_t, uint8_t> out;
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      out[StandsForItself(byte) ? static_cast<char32_t>(byte) : next++] =
          static_cast<uint8_t>(byte);
    }
    return out;
  }());
  return table;
}

// A merge that may be done: of the symbol at `left` with the one after it.
struct Candidate {
  uint32_t rank;
  uint32_t left;
  int32_t id;
};
struct LaterFirst {  // std::priority_queue gives the greatest: lowest rank, then leftmost
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
  }
};

}  // namespace

const std::array<std::string, 256>& ByteAlphabet() {
  static const auto& table = *new std::array<std::string, 256>([] {
    std::array<std::string, 256> out;
    for (const auto& [codepoint, byte] : AlphabetBytes()) AppendUtf8(out[byte], codepoint);
    return out;
  }());
  return table;
}

std::optional<std::string> BytesOfAlphabetText(std::string_view text) {
  const auto& table = AlphabetBytes();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    const auto it = step.kind == Utf8Step::kValid ? table.find(step.codepoint) : table.end();
    if (it == table.end()) return std::nullopt;
    out += static_cast<char>(it->second);
    at += step.size;
  }
  return out;
}

Status BytePairModel::SetVocabulary(const std::vector<std::pair<std::string, int64_t>>& tokens) {
  if (tokens.empty() || tokens.size() > kMaxVocabulary) {
    return InvalidArgument("the vocabulary has {} tokens, allowed are 1 to {}", tokens.size(),
                           kMaxVocabulary);
  }
  int64_t greatest = 0;
  for (const auto& [token, id] : tokens) {
    if (id < 0 || id >= static_cast<int64_t>(kMaxVocabulary)) {
      return InvalidArgument("the token \"{}\" has id {}, allowed are 0 to {}", token, id,
                             kMaxVocabulary - 1);
    }
    if (token.empty() || token.size() > kMaxTokenBytes) {
      return InvalidArgument("the token of id {} has {} bytes, allowed are 1 to {}", id,
                             token.size(), kMaxTokenBytes);
    }
    greatest = std::max(greatest, id);
  }
  tokens_.assign(static_cast<size_t>(greatest) + 1, "");
  ids_.reserve(tokens.size());
  ids_by_bytes_.reserve(tokens.size());
  for (const auto& [token, id] : tokens) {
    std::string& slot = tokens_[static_cast<size_t>(id)];
    if (!slot.empty()) return InvalidArgument("the id {} is given to two tokens", id);
    slot = token;
    if (!ids_.emplace(slot, static_cast<int32_t>(id)).second) {
      return InvalidArgument("the token \"{}\" appears twice", token);
    }
    if (auto bytes = BytesOfAlphabetText(token)) {
      ids_by_bytes_.emplace(std::move(*bytes), static_cast<int32_t>(id));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[static_cast<size_t>(byte)] =
        Id(ByteAlphabet()[static_cast<size_t>(byte)]).value_or(-1);
  }
  return OkStatus();
}

Status BytePairModel::AddMerge(std::string_view left, std::string_view right) {
  if (merges_.size() >= kMaxMerges) {
    return ResourceExhausted("there are more than {} merges", kMaxMerges);
  }
  const auto l = Id(left), r = Id(right), joined = Id(std::string(left) + std::string(right));
  if (!l || !r || !joined) {
    return InvalidArgument("the merge of \"{}\" and \"{}\" uses tokens outside the vocabulary",
                           left, right);
  }
  // A pair that is given again keeps its last rank, as in the tokenizers library.
  merges_[PairKey(*l, *r)] = {static_cast<uint32_t>(merges_.size()), *joined};
  return OkStatus();
}

Status BytePairModel::SetUnknown(std::string_view token, bool fuse) {
  unknown_ = Id(token);
  fuse_unknown_ = fuse;
  if (!unknown_) return InvalidArgument("unk_token \"{}\" is not in the vocabulary", token);
  return OkStatus();
}

std::optional<int32_t> BytePairModel::Id(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

std::vector<BytePairModel::Piece> BytePairModel::Symbols(std::string_view bytes) const {
  std::vector<Piece> symbols;
  symbols.reserve(bytes.size());
  bool last_unknown = false;
  for (uint32_t i = 0; i < bytes.size(); ++i) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(bytes[i])];
    if (id >= 0) {
      symbols.push_back({id, i, i + 1});
      last_unknown = false;
    } else if (unknown_ && fuse_unknown_ && last_unknown) {
      symbols.back().end = i + 1;
    } else if (unknown_) {
      symbols.push_back({*unknown_, i, i + 1});
      last_unknown = true;
    }
  }
  return symbols;
}

void BytePairModel::Encode(std::string_view bytes, std::vector<Piece>& out) const {
  if (ignore_merges_) {
    const auto whole = ids_by_bytes_.find(std::string(bytes));
    if (whole != ids_by_bytes_.end()) {
      out.push_back({whole->second, 0, static_cast<uint32_t>(bytes.size())});
      return;
    }
  }
  std::vector<Piece> symbols = Symbols(bytes);
  const auto count = static_cast<uint32_t>(symbols.size());
  constexpr uint32_t kNone = UINT32_MAX;
  std::vector<uint32_t> next(count), previous(count);
  std::vector<bool> gone(count);
  for (uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? i + 1 : kNone;
    previous[i] = i > 0 ? i - 1 : kNone;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, LaterFirst> queue;
  const auto offer = [&](uint32_t left) {
    if (left == kNone || next[left] == kNone) return;
    const auto it = merges_.find(PairKey(symbols[left].id, symbols[next[left]].id));
    if (it != merges_.end()) queue.push({it->second.rank, left, it->second.id});
  };
  for (uint32_t i = 0; i + 1 < count; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const uint32_t left = best.left;
    const uint32_t right = gone[left] ? kNone : next[left];
    if (right == kNone) continue;
    // The pair may have changed since it was offered.
    const auto it = merges_.find(PairKey(symbols[left].id, symbols[right].id));
    if (it == merges_.end() || it->second.id != best.id) continue;
    symbols[left].id = best.id;
    symbols[left].end = symbols[right].end;
    gone[right] = true;
    next[left] = next[right];
    if (next[left] != kNone) previous[next[left]] = left;
    offer(previous[left]);
    offer(left);
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (!gone[i]) out.push_back(symbols[i]);
  }
}

}  // namespace tidegate::model
