// Byte-level byte-pair encoding: the vocabulary, the merges and the byte alphabet of GPT-2.
// Internal to the tokenizer. Thread-safety: const use from any number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"

namespace tidegate::model {

// The printable characters that stand for bytes: byte -> UTF-8 text.
const std::array<std::string, 256>& ByteAlphabet();
// The bytes that a token text stands for; nothing if a character is outside the alphabet.
std::optional<std::string> BytesOfAlphabetText(std::string_view text);

class BytePairModel {
 public:
  // Ids of all tokens, as the file spells them. Refuses an id outside 0..kMaxVocabulary, an id
  // that is given twice, a token beyond kMaxTokenBytes.
  Status SetVocabulary(const std::vector<std::pair<std::string, int64_t>>& tokens);
  // In the order of rank. Both parts and their join must be in the vocabulary.
  Status AddMerge(std::string_view left, std::string_view right);
  Status SetUnknown(std::string_view token, bool fuse);
  void set_ignore_merges(bool on) { ignore_merges_ = on; }

  struct Piece {
    int32_t id;
    uint32_t begin;  // bytes of the pre-token
    uint32_t end;
  };
  // Appends the tokens of one pre-token (raw bytes). A byte that is not in the vocabulary becomes
  // the unknown token, or nothing if there is none (as in the tokenizers library).
  void Encode(std::string_view bytes, std::vector<Piece>& out) const;

  std::optional<int32_t> Id(std::string_view token) const;
  // The tokens by id, as the file spells them; empty text where there is no token.
  const std::vector<std::string>& tokens() const { return tokens_; }

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  std::vector<Piece> Symbols(std::string_view bytes) const;

  std::vector<std::string> tokens_;
  std::unordered_map<std::string_view, int32_t> ids_;      // views of tokens_
  std::unordered_map<std::string, int32_t> ids_by_bytes_;  // what each token stands for
  std::unordered_map<uint64_t, Merge> merges_;
  std::array<int32_t, 256> byte_ids_{};
  std::optional<int32_t> unknown_;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace tidegate::model
