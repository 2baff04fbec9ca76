// UTF-8: judging it and making broken text printable. Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tidegate {

// The first character of a non-empty text, or why there is none.
struct Utf8Step {
  // kValid: `size` bytes are one character, `codepoint`. kInvalid: the first `size` bytes (1-3) can
  // never begin a character (the maximal subpart of Unicode 3.9). kIncomplete: all of the text is
  // the beginning of a character.
  enum Kind : uint8_t { kValid, kInvalid, kIncomplete } kind;
  uint8_t size;
  char32_t codepoint;
};
Utf8Step NextUtf8(std::string_view text);

// The offset of the first byte that is not valid UTF-8, or text.size().
size_t ValidUtf8Prefix(std::string_view text);

// Appends a code point (at most U+10FFFF, no surrogate).
void AppendUtf8(std::string& out, char32_t codepoint);

// Every invalid part replaced by U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view text);

}  // namespace tidegate
