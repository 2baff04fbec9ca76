#include "base/log.h"

#include <unistd.h>

#include <cstring>

#include "base/clock.h"

namespace tidegate {
namespace {

char g_process[32] = "tidegate";

constexpr std::string_view kLevelNames[] = {"INFO", "WARN", "ERROR"};

}  // namespace

void SetLogProcess(std::string_view name) {
  const size_t n = std::min(name.size(), sizeof(g_process) - 1);
  std::memcpy(g_process, name.data(), n);
  g_process[n] = '\0';
}

void LogLine(LogLevel level, std::string_view text) {
  const std::string line = fmt::format("{} {} {} {}\n", FormatUtc(SystemClock().UnixMillis()),
                                       kLevelNames[static_cast<int>(level)], g_process, text);
  // A lost log line must never stop the process: the result is ignored on purpose.
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace tidegate
