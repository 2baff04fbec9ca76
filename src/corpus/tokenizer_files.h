// The files of a byte-level BPE tokenizer as Hugging Face libraries read them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "corpus/bpe_train.h"

namespace tidegate::corpus {

// How text is cut into words before bytes are merged.
enum class SplitStyle : uint8_t {
  kLlama3 = 0,  // Llama-3's and GPT-4's pattern: contractions of any case, digits in threes
  kGpt2 = 1     // GPT-2's pattern
};
// "llama3", "gpt2"; kInvalidArgument for another.
Result<SplitStyle> SplitStyleOf(std::string_view name);
std::string_view PatternOf(SplitStyle style);

struct TokenizerOptions {
  SplitStyle style = SplitStyle::kLlama3;
  std::string end_of_text = "<|endoftext|>";  // one of the special tokens
  uint64_t model_max_length = 0;              // written to tokenizer_config.json unless 0
};

// The content of tokenizer.json and tokenizer_config.json: the same vocabulary gives the same
// bytes.
std::string TokenizerJson(const BpeVocabulary& vocabulary, const TokenizerOptions& options);
std::string TokenizerConfigJson(const BpeVocabulary& vocabulary, const TokenizerOptions& options);

}  // namespace tidegate::corpus
