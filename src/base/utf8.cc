#include "base/utf8.h"

namespace tidegate {

Utf8Step NextUtf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Utf8Step::kValid, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Step::kInvalid, 1, 0};
  const uint8_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t codepoint = lead & (0x7F >> size);
  for (uint8_t i = 1; i < size; ++i) {
    if (i >= text.size()) return {Utf8Step::kIncomplete, i, 0};
    // The second byte's range excludes overlong forms, surrogates and beyond U+10FFFF.
    const uint8_t least = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t most = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (byte(i) < least || byte(i) > most) return {Utf8Step::kInvalid, i, 0};
    codepoint = (codepoint << 6) | (byte(i) & 0x3F);
  }
  return {Utf8Step::kValid, size, codepoint};
}

size_t ValidUtf8Prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(at));
    if (step.kind != Utf8Step::kValid) return at;
    at += step.size;
  }
  return at;
}

void AppendUtf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(at));
    if (step.kind == Utf8Step::kValid) {
      out.append(text.substr(at, step.size));
    } else {
      AppendUtf8(out, 0xFFFD);
    }
    at += step.size;
  }
  return out;
}

}  // namespace tidegate
