// Structured log lines on standard error: "2026-11-25T04:37:16Z INFO gate round_started round=3".
// Never a record's content, a token, a key or a delta: values are numbers, ids and paths.
// Thread-safe; one write(2) a line.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace tidegate {

enum class LogLevel : uint8_t { kInfo = 0, kWarning = 1, kError = 2 };

// The process' name in each line (default: "tidegate").
void SetLogProcess(std::string_view name);

void LogLine(LogLevel level, std::string_view text);

template <typename... Args>
void LogInfo(fmt::format_string<Args...> format, Args&&... args) {
  LogLine(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void LogWarning(fmt::format_string<Args...> format, Args&&... args) {
  LogLine(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void LogError(fmt::format_string<Args...> format, Args&&... args) {
  LogLine(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace tidegate
