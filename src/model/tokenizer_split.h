// How a tokenizer cuts text before merging: patterns, normalisation, added tokens.
// Internal to the tokenizer. Thread-safety: const use from any number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

// PCRE2's handle, as its header declares it for 8-bit code units.
struct pcre2_real_code_8;

namespace tidegate::model {

// A range of bytes.
struct Range {
  uint32_t begin;
  uint32_t end;
};

// A pattern of a pre-tokenizer, run as it stands (Unicode properties on). Compiled without JIT:
// the trainer's process may not make memory executable.
class Pattern {
 public:
  static Result<Pattern> Compile(std::string_view regex);
  static Result<Pattern> Literal(std::string_view text);

  // The non-empty matches in `text` (valid UTF-8), left to right. kResourceExhausted beyond the
  // limit on steps.
  Status FindAll(std::string_view text, std::vector<Range>& out) const;

 private:
  static Result<Pattern> Make(std::string_view text, uint32_t options);
  explicit Pattern(std::shared_ptr<pcre2_real_code_8> code) : code_(std::move(code)) {}
  std::shared_ptr<pcre2_real_code_8> code_;
};

// One step of a pre-tokenizer: the matches become pieces, and so does what is between them. With
// `removed`, matches are dropped (or, with `invert`, everything else).
struct SplitStep {
  Pattern pattern;
  bool removed = false;
  bool invert = false;
  Status Apply(std::string_view text, std::vector<Range>& pieces) const;
};

// NFC with a way back: byte i of `text` came from bytes begins[i]..ends[i] of the original.
struct Normalized {
  std::string text;
  std::vector<uint32_t> begins;
  std::vector<uint32_t> ends;
};
Result<Normalized> NormalizeNfc(std::string_view text);

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
  bool special = false;
};

// Cuts added tokens out of a text: the longest at each place, from the left.
class AddedTokenMatcher {
 public:
  void Add(const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  struct Part {
    Range range;
    int32_t id;  // -1: ordinary text
  };
  std::vector<Part> Split(std::string_view text) const;

 private:
  const AddedToken* LongestAt(std::string_view text, size_t at) const;
  std::vector<AddedToken> tokens_;
  std::array<std::vector<uint32_t>, 256> by_first_byte_;  // longest first
};

}  // namespace tidegate::model
