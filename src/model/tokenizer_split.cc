#include "model/tokenizer_split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "base/limits.h"
#include "base/utf8.h"

namespace tidegate::model {
namespace {

constexpr uint32_t kMatchLimit = 20'000'000;  // PCRE2's count of internal calls for one match
constexpr uint32_t kHeapLimitKib = 64 * 1024;

std::string PcreMessage(int error) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(error, buffer, sizeof buffer) < 0) return "unknown error";
  return reinterpret_cast<const char*>(buffer);
}

// \s and \S are the White_Space property in the tokenizers library's engine, but PCRE2's \s has
// U+180E as well.
std::string WithUnicodeSpaces(std::string_view regex) {
  std::string out;
  for (size_t i = 0; i < regex.size(); ++i) {
    if (regex[i] != '\\' || i + 1 == regex.size()) {
      out += regex[i];
      continue;
    }
    const char next = regex[++i];
    if (next == 's') {
      out += "\\p{White_Space}";
    } else if (next == 'S') {
      out += "\\P{White_Space}";
    } else {
      out += '\\';
      out += next;
    }
  }
  return out;
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// \w of the tokenizers library: letters, marks, decimal and letter numbers, connectors; also the
// two joiners and the letters in circles and squares, whose category says otherwise.
bool IsWord(char32_t c) {
  if (c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
      (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
      (c >= 0x1F170 && c <= 0x1F189)) {
    return true;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

// The start of the character that ends at `end` > 0 of valid UTF-8.
size_t CharacterBefore(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool WordBefore(std::string_view text, size_t end) {
  return end > 0 && IsWord(NextUtf8(text.substr(CharacterBefore(text, end))).codepoint);
}

bool WordAt(std::string_view text, size_t at) {
  return at < text.size() && IsWord(NextUtf8(text.substr(at)).codepoint);
}

}  // namespace

Result<Pattern> Pattern::Make(std::string_view text, uint32_t options) {
  if (text.empty() || text.size() > kMaxPatternBytes) {
    return InvalidArgument("a pre-tokenizer pattern has {} bytes, allowed are 1 to {}", text.size(),
                           kMaxPatternBytes);
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                   options | PCRE2_UTF, &error, &offset, nullptr);
  if (code == nullptr) {
    return Unsupported("the pre-tokenizer pattern \"{}\" cannot be used: {} at {}", text,
                       PcreMessage(error), offset);
  }
  return Pattern(std::shared_ptr<pcre2_code>(code, pcre2_code_free));
}

Result<Pattern> Pattern::Compile(std::string_view regex) {
  return Make(WithUnicodeSpaces(regex), PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
}

Result<Pattern> Pattern::Literal(std::string_view text) { return Make(text, PCRE2_LITERAL); }

Status Pattern::FindAll(std::string_view text, std::vector<Range>& out) const {
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  if (context == nullptr || data == nullptr) return ResourceExhausted("out of memory");
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  size_t at = 0;
  while (at < text.size()) {
    const int count = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                  text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (count == PCRE2_ERROR_NOMATCH) return OkStatus();
    if (count < 0) {
      return ResourceExhausted("a pre-tokenizer pattern gave up at byte {} of the text: {}", at,
                               PcreMessage(count));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    if (bounds[1] > bounds[0]) {
      out.push_back({static_cast<uint32_t>(bounds[0]), static_cast<uint32_t>(bounds[1])});
      at = bounds[1];
    } else {
      // An empty match cuts nothing; go on behind the next character.
      at =
          bounds[0] < text.size() ? bounds[0] + NextUtf8(text.substr(bounds[0])).size : text.size();
    }
  }
  return OkStatus();
}

Status SplitStep::Apply(std::string_view text, std::vector<Range>& pieces) const {
  std::vector<Range> out, matches;
  const auto keep = [&](uint32_t begin, uint32_t end, bool match) {
    if (begin < end && !(removed && match != invert)) out.push_back({begin, end});
  };
  for (const Range& piece : pieces) {
    matches.clear();
    TG_RETURN_IF_ERROR(pattern.FindAll(text.substr(piece.begin, piece.end - piece.begin), matches));
    uint32_t at = piece.begin;
    for (const Range& match : matches) {
      keep(at, piece.begin + match.begin, false);
      keep(piece.begin + match.begin, piece.begin + match.end, true);
      at = piece.begin + match.end;
    }
    keep(at, piece.end, false);
  }
  pieces = std::move(out);
  return OkStatus();
}

Result<Normalized> NormalizeNfc(std::string_view text) {
  Normalized out;
  const auto append = [&](std::string_view piece, bool same, size_t begin, size_t end) {
    for (size_t i = 0; i < piece.size(); ++i) {
      out.begins.push_back(static_cast<uint32_t>(same ? begin + i : begin));
      out.ends.push_back(static_cast<uint32_t>(same ? begin + i + 1 : end));
    }
    out.text += piece;
  };
  // Characters compose only within a grapheme cluster, so each is normalised alone; that keeps the
  // way back to the original short.
  size_t at = 0;
  while (at < text.size()) {
    const size_t begin = at;
    utf8proc_int32_t state = 0;
    Utf8Step step = NextUtf8(text.substr(at));
    at += step.size;
    while (at < text.size()) {
      const Utf8Step next = NextUtf8(text.substr(at));
      if (next.codepoint < 0x80 ||
          utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(step.codepoint),
                                           static_cast<utf8proc_int32_t>(next.codepoint), &state)) {
        break;
      }
      step = next;
      at += step.size;
    }
    const std::string_view cluster = text.substr(begin, at - begin);
    if (cluster.size() == 1) {
      append(cluster, true, begin, at);
      continue;
    }
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t size =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(cluster.data()),
                     static_cast<utf8proc_ssize_t>(cluster.size()), &mapped,
                     static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, std::free);
    if (size < 0) {
      return InvalidArgument("the text cannot be normalised at byte {}: {}", begin,
                             utf8proc_errmsg(size));
    }
    const std::string_view result(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
    append(result, result == cluster, begin, at);
  }
  return out;
}

void AddedTokenMatcher::Add(const AddedToken& token) {
  auto& bucket = by_first_byte_[static_cast<uint8_t>(token.content[0])];
  const auto index = static_cast<uint32_t>(tokens_.size());
  tokens_.push_back(token);
  const auto shorter = std::find_if(bucket.begin(), bucket.end(), [&](uint32_t other) {
    return tokens_[other].content.size() < token.content.size();
  });
  bucket.insert(shorter, index);
}

const AddedToken* AddedTokenMatcher::LongestAt(std::string_view text, size_t at) const {
  for (const uint32_t index : by_first_byte_[static_cast<uint8_t>(text[at])]) {
    if (text.substr(at).starts_with(tokens_[index].content)) return &tokens_[index];
  }
  return nullptr;
}

std::vector<AddedTokenMatcher::Part> AddedTokenMatcher::Split(std::string_view text) const {
  std::vector<Part> parts;
  size_t done = 0;  // everything before is in a part
  size_t at = 0;
  while (at < text.size()) {
    const AddedToken* token = tokens_.empty() ? nullptr : LongestAt(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->content.size();
    at = end;
    if (token->single_word && (WordBefore(text, begin) || WordAt(text, end))) continue;
    while (token->lstrip && begin > done) {
      const size_t before = CharacterBefore(text, begin);
      if (before < done || !IsWhiteSpace(NextUtf8(text.substr(before)).codepoint)) break;
      begin = before;
    }
    while (token->rstrip && end < text.size()) {
      const Utf8Step step = NextUtf8(text.substr(end));
      if (!IsWhiteSpace(step.codepoint)) break;
      end += step.size;
    }
    if (done < begin) {
      parts.push_back({{static_cast<uint32_t>(done), static_cast<uint32_t>(begin)}, -1});
    }
    parts.push_back({{static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}, token->id});
    done = at = end;
  }
  if (done < text.size()) {
    parts.push_back({{static_cast<uint32_t>(done), static_cast<uint32_t>(text.size())}, -1});
  }
  return parts;
}

}  // namespace tidegate::model
