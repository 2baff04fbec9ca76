#include "model/chat_template_lexer.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/utf8.h"
#include "model/chat_template_value.h"

namespace tidegate::model::chat {
namespace {

bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Jinja: every line end is \n, and one at the end of the template is dropped.
std::string NormalizeNewlines(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r') {
      out += text[i];
    } else {
      out += '\n';
      if (i + 1 < text.size() && text[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool AllSpace(std::string_view text) {
  return Strip(Text{std::string(text), {}}, nullptr, true, false).bytes.empty();
}

class Lexer {
 public:
  Lexer(std::string source, std::string_view what, size_t max_tokens)
      : source_(std::move(source)), what_(what), max_tokens_(max_tokens) {}

  Result<std::vector<Token>> Run() {
    while (pos_ < source_.size()) {
      TG_RETURN_IF_ERROR(Data());
    }
    tokens_.push_back({TokenKind::kEnd, "", 0, line_});
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(pos_); }

  void Advance(size_t bytes) {
    const auto from = source_.begin() + static_cast<std::ptrdiff_t>(pos_);
    line_ += static_cast<int>(std::count(from, from + static_cast<std::ptrdiff_t>(bytes), '\n'));
    pos_ += bytes;
  }

  Status Add(TokenKind kind, std::string text = "", int64_t number = 0) {
    if (tokens_.size() >= max_tokens_) {
      return InvalidArgument("{}: more than {} tokens", what_, max_tokens_);
    }
    tokens_.push_back({kind, std::move(text), number, line_});
    return OkStatus();
  }

  // Text up to the next tag, then the tag.
  Status Data() {
    const std::string_view rest = Rest();
    size_t at = 0;
    do {
      at = rest.find('{', at);
      if (at == std::string_view::npos || at + 1 >= rest.size()) {
        TG_RETURN_IF_ERROR(Add(TokenKind::kData, std::string(rest)));
        Advance(rest.size());
        return OkStatus();
      }
      if (rest[at + 1] == '%' || rest[at + 1] == '{' || rest[at + 1] == '#') break;
      ++at;
    } while (true);
    const char type = rest[at + 1];
    const char sign = at + 2 < rest.size() ? rest[at + 2] : '\0';
    const bool signed_tag = sign == '-' || sign == '+';
    std::string text(rest.substr(0, at));
    if (sign == '-') {
      text = Strip(Text{text, {}}, nullptr, false, true).bytes;
    } else if (sign != '+' && type != '{') {
      // lstrip_blocks: a tag that begins its line takes the whitespace before it.
      const size_t line_begin = text.rfind('\n') + 1;  // npos + 1 is 0
      if ((line_begin > 0 || line_starting_) && AllSpace(std::string_view(text).substr(line_begin)))
        text.resize(line_begin);
    }
    if (!text.empty()) TG_RETURN_IF_ERROR(Add(TokenKind::kData, std::move(text)));
    Advance(at + 2 + (signed_tag ? 1 : 0));
    line_starting_ = false;
    if (type == '#') return Comment();
    TG_RETURN_IF_ERROR(Add(type == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin));
    return Inside(type == '%');
  }

  // After the closing bracket of a tag: -%} takes all whitespace, %} one newline.
  void AfterTag(char sign, bool block) {
    const std::string_view rest = Rest();
    size_t take = 0;
    if (sign == '-') {
      const Text text{std::string(rest), {}};
      take = rest.size() - Strip(text, nullptr, true, false).bytes.size();
    } else if (sign != '+' && block && rest.starts_with('\n')) {
      take = 1;
    }
    line_starting_ = take > 0 && rest[take - 1] == '\n';
    Advance(take);
  }

  Status Comment() {
    const size_t end = Rest().find("#}");
    if (end == std::string_view::npos) {
      return InvalidArgument("{}, line {}: a comment has no end: add #}}", what_, line_);
    }
    const char sign = end > 0 ? Rest()[end - 1] : '\0';
    Advance(end + 2);
    AfterTag(sign, true);
    return OkStatus();
  }

  // The tokens of one tag, to its closing bracket.
  Status Inside(bool block) {
    const std::string_view close = block ? "%}" : "}}";
    std::string brackets;
    const int first_line = line_;
    while (pos_ < source_.size()) {
      const std::string_view rest = Rest();
      const char c = rest[0];
      if (brackets.empty()) {
        const size_t sign = c == '-' || (block && c == '+') ? 1 : 0;
        if (rest.substr(sign).starts_with(close)) {
          TG_RETURN_IF_ERROR(Add(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd));
          Advance(sign + 2);
          AfterTag(sign != 0 ? c : '\0', block);
          return OkStatus();
        }
      }
      const Utf8Step step = NextUtf8(rest);
      if (IsSpace(step.codepoint)) {
        Advance(step.size);
      } else if (c == '\'' || c == '"') {
        TG_RETURN_IF_ERROR(String(c));
      } else if (IsDigit(c)) {
        TG_RETURN_IF_ERROR(Number());
      } else if (IsNameStart(c)) {
        size_t size = 1;
        while (size < rest.size() && (IsNameStart(rest[size]) || IsDigit(rest[size]))) ++size;
        TG_RETURN_IF_ERROR(Add(TokenKind::kName, std::string(rest.substr(0, size))));
        Advance(size);
      } else {
        TG_RETURN_IF_ERROR(Operator(brackets));
      }
    }
    return InvalidArgument("{}, line {}: a tag has no end: add {}", what_, first_line, close);
  }

  Status Operator(std::string& brackets) {
    static constexpr std::string_view kOperators[] = {
        "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<",
        ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", "|", ".", ",", ":", ";"};
    const std::string_view rest = Rest();
    for (const std::string_view op : kOperators) {
      if (!rest.starts_with(op)) continue;
      const char c = op[0];
      if (c == '(' || c == '[' || c == '{') {
        brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
      } else if (c == ')' || c == ']' || c == '}') {
        if (brackets.empty() || brackets.back() != c) {
          return InvalidArgument("{}, line {}: unexpected '{}'", what_, line_, op);
        }
        brackets.pop_back();
      }
      TG_RETURN_IF_ERROR(Add(TokenKind::kOperator, std::string(op)));
      Advance(op.size());
      return OkStatus();
    }
    return InvalidArgument("{}, line {}: unexpected '{}'", what_, line_,
                           rest.substr(0, NextUtf8(rest).size));
  }

  Status Number() {
    const std::string_view rest = Rest();
    int64_t number = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
    const size_t size = static_cast<size_t>(end - rest.data());
    const char next = size < rest.size() ? rest[size] : '\0';
    const bool fraction = next == '.' && size + 1 < rest.size() && IsDigit(rest[size + 1]);
    if (error != std::errc() || IsNameStart(next) || fraction || (rest[0] == '0' && size > 1)) {
      return Unsupported("{}, line {}: only decimal whole numbers below 2^63 are supported", what_,
                         line_);
    }
    TG_RETURN_IF_ERROR(Add(TokenKind::kInteger, std::string(rest.substr(0, size)), number));
    Advance(size);
    return OkStatus();
  }

  Status String(char quote) {
    const std::string_view rest = Rest();
    std::string out;
    size_t i = 1;
    while (i < rest.size() && rest[i] != quote) {
      if (rest[i] != '\\') {
        out += rest[i++];
      } else {
        TG_RETURN_IF_ERROR(Escape(rest, i, out));
      }
    }
    if (i >= rest.size()) {
      return InvalidArgument("{}, line {}: a text has no end: add {}", what_, line_, quote);
    }
    TG_RETURN_IF_ERROR(Add(TokenKind::kString, std::move(out)));
    Advance(i + 1);
    return OkStatus();
  }

  // Python's "unicode-escape" codec, which is what Jinja decodes texts with. `i` is at the
  // backslash and is moved behind the escape. An unknown escape stays as it is written.
  Status Escape(std::string_view rest, size_t& i, std::string& out) {
    const char c = i + 1 < rest.size() ? rest[i + 1] : '\0';
    static constexpr std::string_view kNames = "\n\\'\"abfnrtv";
    static constexpr std::string_view kValues[] = {"",   "\\", "'",  "\"", "\a", "\b",
                                                   "\f", "\n", "\r", "\t", "\v"};
    const size_t simple = c == '\0' ? std::string_view::npos : kNames.find(c);
    if (simple != std::string_view::npos) {
      out += kValues[simple];
      i += 2;
      return OkStatus();
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) {
      const std::string_view hex = rest.substr(std::min(i + 2, rest.size()), digits);
      uint32_t code = 0;
      const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
      if (error != std::errc() || hex.size() < digits || end != hex.data() + digits ||
          code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
        return InvalidArgument("{}, line {}: \\{} needs {} hexadecimal digits of a character",
                               what_, line_, c, digits);
      }
      AppendUtf8(out, code);
      i += 2 + digits;
      return OkStatus();
    }
    if (IsDigit(c) || c == 'N') {
      return Unsupported("{}, line {}: the escape \\{} is not supported: use \\u and 4 digits",
                         what_, line_, c);
    }
    out += rest[i++];
    return OkStatus();
  }

  std::string source_;
  std::string_view what_;
  size_t max_tokens_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // whether the next text begins a line
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> Tokenize(std::string_view text, std::string_view what,
                                    size_t max_tokens) {
  return Lexer(NormalizeNewlines(text), what, max_tokens).Run();
}

}  // namespace tidegate::model::chat
