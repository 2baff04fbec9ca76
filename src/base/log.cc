#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstring>

#include "base/clock.h"

namespace tidegate {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};
char g_process[32] = "tidegate";

constexpr std::string_view kLevelNames[] = {"DEBUG", "INFO", "WARN", "ERROR"};

}  // namespace

void SetLogProcess(std::string_view name) {
  const size_t n = std::min(name.size(), sizeof(g_process) - 1);
  std::memcpy(g_process, name.data(), n);
  g_process[n] = '\0';
}

void SetLogLevel(LogLevel level) { g_level = level; }

void LogLine(LogLevel level, std::string_view text) {
  if (level < g_level.load()) return;
  const std::string line = fmt::format("{} {} {} {}\n", FormatUtc(SystemClock().UnixMillis()),
                                       kLevelNames[static_cast<int>(level)], g_process, text);
  // A lost log line must never stop the process: the result is ignored on purpose.
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace tidegate
