#include "model/path_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cctype>

namespace tidegate::model {
namespace {

constexpr size_t kMaxKeyBytes = 256;
constexpr uint32_t kMatchLimit = 100'000;  // PCRE2's count of internal calls for one match
constexpr uint32_t kHeapLimitKib = 1024;

// What PCRE2 reads in its own way, or null: Python's re has it not, or as another thing.
const char* NotPython(std::string_view key) {
  constexpr std::string_view kEscapes = "AbBdDsSwWfnrtv0123456789";
  for (size_t i = 0; i < key.size(); ++i) {
    const std::string_view rest = key.substr(i);
    if (key[i] == '\\') {
      if (i + 1 == key.size()) return "a backslash at the end";
      const char next = key[++i];
      if (std::isalpha(static_cast<unsigned char>(next)) != 0 &&
          kEscapes.find(next) == std::string_view::npos) {
        return "an escape of a letter other than \\d, \\s, \\w, \\b and their like";
      }
    } else if (rest.starts_with("(*") || rest.starts_with("(?|") || rest.starts_with("(?'")) {
      return "a group that Python has not";
    } else if (rest.starts_with("(?")) {
      const std::string_view inside = rest.substr(2);
      const bool known = inside.starts_with(':') || inside.starts_with('=') ||
                         inside.starts_with('!') || inside.starts_with("<=") ||
                         inside.starts_with("<!") || inside.starts_with("P<") ||
                         inside.starts_with("P=") || inside.starts_with('#');
      if (!known) return "a group other than (?:, (?=, (?!, (?<=, (?<!, (?P<, (?P= and (?#";
    } else if (rest.starts_with("[[:") || rest.starts_with("[[.") || rest.starts_with("[[=")) {
      return "a POSIX class";
    } else if (rest.starts_with("{,")) {
      return "a count without its least number";
    }
  }
  return nullptr;
}

std::string PcreMessage(int error) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(error, buffer, sizeof buffer) < 0) return "unknown error";
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

Result<PathPattern> PathPattern::Compile(std::string_view key) {
  if (key.empty() || key.size() > kMaxKeyBytes) {
    return InvalidArgument("a module pattern has {} bytes, allowed are 1 to {}", key.size(),
                           kMaxKeyBytes);
  }
  if (const char* what = NotPython(key)) {
    return InvalidArgument("the module pattern \"{}\" has {}: write a Python regular expression",
                           key, what);
  }
  const std::string regex = fmt::format("(.*\\.)?({})$", key);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C,
                                   &error, &offset, nullptr);
  if (code == nullptr) {
    return InvalidArgument("the module pattern \"{}\" is no regular expression: {}", key,
                           PcreMessage(error));
  }
  return PathPattern(std::string(key), std::shared_ptr<pcre2_code>(code, pcre2_code_free));
}

Result<bool> PathPattern::Matches(std::string_view path) const {
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  if (context == nullptr || data == nullptr) return ResourceExhausted("out of memory");
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const int count = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(path.data()), path.size(),
                                0, PCRE2_NO_UTF_CHECK, data.get(), context.get());
  if (count >= 0) return true;
  if (count == PCRE2_ERROR_NOMATCH) return false;
  return ResourceExhausted("the module pattern \"{}\" gave up on {}: {}; write a simpler one", key_,
                           path, PcreMessage(count));
}

}  // namespace tidegate::model
