// Strict JSON: what nlohmann accepts, less duplicate keys, deep nesting and oversize texts.
// Errors name `what`, the offence and its byte. Thread-safety: pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "base/status.h"

namespace tidegate {

struct JsonLimits {
  size_t max_bytes = 1 << 20;
  size_t max_depth = 64;
};

// Invalid UTF-8, a key twice in one object, more than max_depth open brackets, numbers out of
// range, comments and anything after the value are refused.
Result<nlohmann::json> ParseStrictJson(std::string_view text, const JsonLimits& limits,
                                       std::string_view what);

// The same, keeping the order of keys (at most 4096 keys an object).
Result<nlohmann::ordered_json> ParseStrictOrderedJson(std::string_view text,
                                                      const JsonLimits& limits,
                                                      std::string_view what);

}  // namespace tidegate
