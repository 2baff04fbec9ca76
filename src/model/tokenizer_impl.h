// The parts of a loaded tokenizer. Internal to the tokenizer.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/tokenizer.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_split.h"

namespace tidegate::model {

struct Tokenizer::Impl {
  BytePairModel bpe;
  bool nfc = false;
  std::vector<SplitStep> steps;
  std::vector<AddedToken> added;
  AddedTokenMatcher raw_matcher;         // tokens matched before normalisation
  AddedTokenMatcher normalized_matcher;  // and after
  std::unordered_map<std::string, int32_t> added_ids;
  std::unordered_map<int32_t, size_t> added_index;  // id -> place in `added`
  std::vector<std::string> token_bytes;             // by id; empty where there is no token
  std::vector<int32_t> prefix_ids;                  // what add_special_tokens puts before
  std::vector<int32_t> suffix_ids;                  // and after
};

// Fills an Impl from tokenizer.json, refusing by its type's name any component that is not built.
Status ParseTokenizerJson(std::string_view json_text, std::string_view what, Tokenizer::Impl& impl);

}  // namespace tidegate::model
