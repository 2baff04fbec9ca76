// Jinja tokens of a chat template, with trim_blocks and lstrip_blocks. Internal to src/model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tidegate::model::chat {

enum class TokenKind : uint8_t {
  kData,           // text outside of tags, whitespace control applied
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,  // escapes decoded
  kInteger,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  std::string text;
  int64_t number;
  int line;  // from 1
};

// The last token is kEnd. At most `max_tokens` others.
Result<std::vector<Token>> Tokenize(std::string_view text, std::string_view what,
                                    size_t max_tokens);

}  // namespace tidegate::model::chat
