#include "cli/machine.h"

#include <cpuid.h>
#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/file.h"

namespace tidegate::cli {
namespace {

struct CpuidWords {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

CpuidWords Cpuid(unsigned leaf, unsigned subleaf) {
  CpuidWords w;
  if (__get_cpuid_count(leaf, subleaf, &w.a, &w.b, &w.c, &w.d) == 0) return {};
  return w;
}

// State components the kernel saves (XCR0): without them the instructions fault.
uint64_t EnabledState() {
  if ((Cpuid(1, 0).c & (1u << 27)) == 0) return 0;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// /proc files report size 0 but are read whole; they are small.
Result<std::string> ReadProc(const std::string& path) {
  std::ifstream in(path);
  if (!in) return NotFound("cannot read {}", path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// Busy and total ticks of the CPUs that this process may use.
Result<std::pair<uint64_t, uint64_t>> CpuTicks() {
  cpu_set_t mask;
  if (::sched_getaffinity(0, sizeof(mask), &mask) != 0) return Unavailable("no CPU affinity");
  TG_ASSIGN_OR_RETURN(const std::string text, ReadProc("/proc/stat"));
  std::istringstream lines(text);
  uint64_t idle = 0, total = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string name;
    fields >> name;
    if (name.size() < 4 || !name.starts_with("cpu")) continue;
    const int cpu = std::atoi(name.c_str() + 3);
    if (cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &mask)) continue;
    uint64_t value = 0;
    // user nice system idle iowait irq softirq steal; guest time is inside user.
    for (int i = 0; i < 8 && fields >> value; ++i) {
      total += value;
      if (i == 3 || i == 4) idle += value;
    }
  }
  return std::pair(idle, total);
}

}  // namespace

std::vector<std::string> CpuFeatures() {
  std::vector<std::string> out;
  const CpuidWords one = Cpuid(1, 0), seven = Cpuid(7, 0), seven_one = Cpuid(7, 1);
  const uint64_t state = EnabledState();
  const bool ymm = (state & 0x6) == 0x6;
  const bool zmm = (state & 0xe6) == 0xe6;
  const bool tiles = (state & 0x60000) == 0x60000;
  auto add = [&](bool has, const char* name) {
    if (has) out.emplace_back(name);
  };
  add(ymm && (seven.b & (1u << 5)), "avx2");
  add(ymm && (one.c & (1u << 12)), "fma");
  add(zmm && (seven.b & (1u << 16)), "avx512f");
  add(zmm && (seven.c & (1u << 11)), "avx512_vnni");
  add(zmm && (seven_one.a & (1u << 5)), "avx512_bf16");
  add(tiles && (seven.d & (1u << 24)), "amx_tile");
  add(tiles && (seven.d & (1u << 22)), "amx_bf16");
  return out;
}

std::string CpuModel() {
  const auto text = ReadProc("/proc/cpuinfo");
  if (!text) return "unknown";
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

int UsableCpus() {
  cpu_set_t mask;
  if (::sched_getaffinity(0, sizeof(mask), &mask) != 0) return 1;
  return std::max(1, CPU_COUNT(&mask));
}

double CgroupCpus() {
  const auto text = ReadProc("/sys/fs/cgroup/cpu.max");
  if (!text) return 0;
  std::istringstream fields(*text);
  double quota = 0, period = 0;
  if (!(fields >> quota >> period) || period <= 0) return 0;  // "max 100000": no limit
  return quota / period;
}

Result<double> IdlePercent(int millis) {
  TG_ASSIGN_OR_RETURN(const auto before, CpuTicks());
  std::this_thread::sleep_for(std::chrono::milliseconds(millis));
  TG_ASSIGN_OR_RETURN(const auto after, CpuTicks());
  const uint64_t total = after.second - before.second;
  if (total == 0) return Unavailable("/proc/stat did not move; is the CPU time hidden here?");
  return 100.0 * static_cast<double>(after.first - before.first) / static_cast<double>(total);
}

Result<ZmqFacts> FindZmq() {
  void* library = ::dlopen("libzmq.so.5", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return Unavailable("libzmq.so.5 cannot be loaded; install the package libzmq5");
  }
  using VersionFunction = void (*)(int*, int*, int*);
  using HasFunction = int (*)(const char*);
  const auto version = reinterpret_cast<VersionFunction>(::dlsym(library, "zmq_version"));
  const auto has = reinterpret_cast<HasFunction>(::dlsym(library, "zmq_has"));
  Result<ZmqFacts> facts = Unavailable("libzmq.so.5 lacks zmq_version or zmq_has; is it damaged?");
  if (version != nullptr && has != nullptr) {
    int major = 0, minor = 0, patch = 0;
    version(&major, &minor, &patch);
    facts = ZmqFacts{fmt::format("{}.{}.{}", major, minor, patch), has("curve") == 1};
  }
  ::dlclose(library);
  return facts;
}

}  // namespace tidegate::cli
