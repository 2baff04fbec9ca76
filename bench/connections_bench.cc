// Real connections of many sites to one coordinator process: each site has its two, under CURVE,
// speaks the protocol and trains nothing. Prints how long they take to be let in and what a round
// costs; exit code 1 when a round does not end, the sites do not get the same bits, or a limit is
// passed.
//
//   connections_bench --base HF_FOLDER [--sites 1000] [--rounds 10] [--limit_round_s 30]
//                     [--limit_rss_mb 512] [--dir FOLDER]
//
// Sites and coordinator share the machine: what the sites need is in the times, not in RSS and
// descriptors, which are the coordinator's.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/subprocess.h"
#include "nlohmann/json.hpp"
#include "tests/offshore/site_crowd.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Options {
  fs::path base, dir = fs::temp_directory_path() / "tidegate_connections_bench";
  size_t sites = 1000;
  uint32_t rounds = 10;
  double limit_round_s = 30, limit_rss_mb = 512;
};

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

Result<int> FreePort() {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return Unexpected(ErrnoStatus("find", "a free port", errno));
  }
  return ntohs(address.sin_port);
}

// What the kernel says of the coordinator.
struct Usage {
  double peak_rss_mb = 0, cpu_seconds = 0;
  size_t descriptors = 0, threads = 0;
};

Usage UsageOf(pid_t pid) {
  Usage usage;
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) usage.peak_rss_mb = std::atof(line.c_str() + 6) / 1024;
    if (line.starts_with("Threads:")) usage.threads = std::strtoul(line.c_str() + 8, nullptr, 10);
  }
  std::error_code error;
  for (fs::directory_iterator it(fmt::format("/proc/{}/fd", pid), error), end; !error && it != end;
       it.increment(error)) {
    ++usage.descriptors;
  }
  std::ifstream stat(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(stat, text);
  unsigned long user = 0, system = 0;
  // Fields 14 and 15; the name in field 2 may have spaces and ends with ")".
  const size_t after = text.rfind(')');
  if (after != std::string::npos &&
      std::sscanf(text.c_str() + after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                  &user, &system) == 2) {
    usage.cpu_seconds =
        static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }
  return usage;
}

// Each site has a libzmq context of its own here, with its descriptors.
Status RaiseDescriptors() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoStatus("read", "RLIMIT_NOFILE", errno);
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) == 0) return OkStatus();
  return ErrnoStatus("raise", "RLIMIT_NOFILE", errno);
}

struct Figures {
  double connect_seconds = 0, rounds_seconds = 0, cpu_before = 0;
  std::vector<double> rounds;  // seconds, as the first site sees its adapters come
  Usage usage;
};

Result<Figures> Measure(const Options& options) {
  TG_RETURN_IF_ERROR(RaiseDescriptors());
  std::error_code error;
  const fs::path programs = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (error) return Unexpected(ErrnoStatus("read", "/proc/self/exe", error.value()));
  TG_ASSIGN_OR_RETURN(const int port, FreePort());
  fs::remove_all(options.dir);
  fs::create_directories(options.dir);
  const fs::path coord = options.dir / "coord";
  const auto made = RunCommandOk(
      {(programs / "tidegate").native(), "coordinator", "init", "--dir", coord.native(), "--name",
       "bench", "--address", fmt::format("tcp://127.0.0.1:{}", port)},
      60'000);
  if (!made) return Unexpected(made.error());
  TG_ASSIGN_OR_RETURN(const std::string config,
                      ReadTextFile(options.base / "config.json", 1 << 20));
  const std::string job = fmt::format(
      "base = \"b\"\nrounds = {}\n[lora]\nr = 2\n[train]\nlocal_steps = 1\n", options.rounds);
  TG_ASSIGN_OR_RETURN(SiteCrowd crowd, SiteCrowd::Enrol(coord, options.sites,
                                                        {{"verb", "job_submit"},
                                                         {"file", "bench.toml"},
                                                         {"text", job},
                                                         {"model_config", config},
                                                         {"base_hash", std::string(64, '5')},
                                                         {"base_name", "b"}}));
  TG_ASSIGN_OR_RETURN(
      const ChildProcess coordinator,
      ChildProcess::Start({(programs / "tidegate-coordinator").native(), "--dir", coord.native()},
                          options.dir / "log"));
  Figures figures;
  const auto begin = Clock::now();
  crowd.Dial();
  while (crowd.connected() < options.sites) {
    if (!crowd.Step() || Seconds(begin) > 300) {
      return DeadlineExceeded("{} of {} sites are connected; see {}", crowd.connected(),
                              options.sites, (options.dir / "log").native());
    }
  }
  figures.connect_seconds = Seconds(begin);
  // The first round ends once the last of them is in; the others are measured.
  const FakeSite& first = *crowd.sites()[0];
  auto start = Clock::now(), last = start;
  uint32_t version = first.adapter ? first.adapter->version : 0;
  while (crowd.ended(options.rounds) < options.sites) {
    if (!crowd.Step() || Seconds(last) > 2 * options.limit_round_s) {
      return DeadlineExceeded("{} of {} sites ended, at version {}; see {}",
                              crowd.ended(options.rounds), options.sites, version,
                              (options.dir / "log").native());
    }
    if (!first.adapter || first.adapter->version == version) continue;
    version = first.adapter->version;
    if (version == 1) {
      start = Clock::now();
      figures.cpu_before = UsageOf(coordinator.pid()).cpu_seconds;
    } else {
      figures.rounds.push_back(Seconds(last));
    }
    last = Clock::now();
  }
  figures.rounds_seconds = Seconds(start);
  figures.usage = UsageOf(coordinator.pid());
  for (const auto& site : crowd.sites()) {
    if (site->parameters != first.parameters || site->bad != 0 || !site->errors.empty()) {
      return DataLoss("site {} has another adapter, or was refused", site->name());
    }
  }
  coordinator.Signal(SIGTERM);
  return figures;
}

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--base") options.base = argv[i + 1];
    if (key == "--dir") options.dir = argv[i + 1];
    if (key == "--sites") options.sites = std::strtoul(argv[i + 1], nullptr, 10);
    if (key == "--rounds") {
      options.rounds = static_cast<uint32_t>(std::strtoul(argv[i + 1], nullptr, 10));
    }
    if (key == "--limit_round_s") options.limit_round_s = std::atof(argv[i + 1]);
    if (key == "--limit_rss_mb") options.limit_rss_mb = std::atof(argv[i + 1]);
  }
  if (options.base.empty() || options.sites < 1 || options.rounds < 2) {
    std::fprintf(stderr,
                 "usage: connections_bench --base DIR [--sites N] [--rounds N] "
                 "[--limit_round_s S] [--limit_rss_mb MB] [--dir DIR]\n");
    return 64;
  }
  auto figures = Measure(options);
  if (!figures) {
    std::fprintf(stderr, "connections_bench: %s\n", figures.error().ToString().c_str());
    return static_cast<int>(figures.error().code());
  }
  std::vector<double>& rounds = figures->rounds;
  std::sort(rounds.begin(), rounds.end());
  if (rounds.empty()) return 1;
  const double median = rounds[rounds.size() / 2];
  const auto count = static_cast<double>(rounds.size());
  const Usage& usage = figures->usage;
  std::printf("%zu sites, %zu connections, all in after %.1f s\n", options.sites, 2 * options.sites,
              figures->connect_seconds);
  std::printf("%zu rounds after the first ended in %.1f s: %.2f rounds/s, %.0f updates/s\n",
              rounds.size(), figures->rounds_seconds, count / figures->rounds_seconds,
              static_cast<double>(options.sites) * count / figures->rounds_seconds);
  std::printf("a round: median %.2f s, slowest %.2f s (limit %.0f s)\n", median, rounds.back(),
              options.limit_round_s);
  std::printf(
      "coordinator: peak RSS %.0f MB (limit %.0f MB), %zu descriptors, %zu threads, "
      "%.2f s of CPU a round\n",
      usage.peak_rss_mb, options.limit_rss_mb, usage.descriptors, usage.threads,
      (usage.cpu_seconds - figures->cpu_before) / count);
  return rounds.back() <= options.limit_round_s && usage.peak_rss_mb <= options.limit_rss_mb ? 0
                                                                                             : 1;
}

}  // namespace
}  // namespace tidegate::offshore

int main(int argc, char** argv) { return tidegate::offshore::Main(argc, argv); }
