#include "base/available_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>
#include <string>

namespace tidegate {
namespace {

// /proc files report size 0 but are read whole; they are small.
Result<std::string> ReadProc(const std::string& path) {
  std::ifstream in(path);
  if (!in) return NotFound("cannot read {}", path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

Result<uint64_t> ReadNumber(const std::string& path) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadProc(path));
  uint64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc()) {
    return NotFound("{} holds no number", path);
  }
  return value;
}

// The value of "NAME: 123 kB" in /proc/meminfo, in bytes.
Result<uint64_t> MeminfoBytes(std::string_view name) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadProc("/proc/meminfo"));
  std::istringstream lines(text);
  std::string key;
  uint64_t value = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    if (fields >> key >> value && key == std::string(name) + ":") return value * 1024;
  }
  return NotFound("/proc/meminfo has no {}", name);
}

}  // namespace

Result<uint64_t> AvailableMemory() {
  TG_ASSIGN_OR_RETURN(uint64_t available, MeminfoBytes("MemAvailable"));
  const auto limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const auto used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit && used) available = std::min(available, *limit > *used ? *limit - *used : 0);
  return available;
}

}  // namespace tidegate
