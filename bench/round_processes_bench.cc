// What a round costs beside training, with every process of the product: a coordinator and two
// sites, each with its supervisor, gate and link behind their walls, on loopback and a real disk.
// The trainers are round_idle_trainer, which answers at once; with --trainer real they are the
// product's, and what shows is a whole round of a tiny model.
//
//   round_processes_bench --base HF_FOLDER [--rounds 60] [--rank 2] [--limit_ms 50]
//                         [--trainer idle|real] [--rss_every 0] [--dir FOLDER]
//
// Prints JSON: milliseconds from version to version. Exit code 1 when the median is over the limit.
// --rss_every N: also each process' resident memory at every Nth round; exit code 1 when one grows,
// over the later half of these, by more than a page every fourth round.
#include <poll.h>
#include <sys/inotify.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/file.h"
#include "cli/poc.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// Bytes a round. The gate keeps its ledger in memory, which is three leaves longer after each.
constexpr double kMostGrowth = 1024, kMostGrowthOfGate = 2560;

struct Options {
  fs::path base, dir = fs::temp_directory_path() / "tidegate_round_processes_bench";
  int rounds = 60, rank = 2, rss_every = 0;
  double limit_ms = 50;
  bool real_trainer = false;
};

Result<fs::path> OwnFolder() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return Unexpected(ErrnoStatus("read", "/proc/self/exe", error.value()));
  return self.parent_path();
}

// A supervisor starts what lies beside it: the product's programs, and the trainer that is wanted.
Status CopyPrograms(const fs::path& from, const fs::path& to, bool real_trainer) {
  fs::create_directories(to);
  for (const char* name : {"tidegate", "tidegate-coordinator", "tidegate-onshore", "tidegate-gate",
                           "tidegate-link", "tidegate-trainer"}) {
    const bool stand_in = std::string_view(name) == "tidegate-trainer" && !real_trainer;
    std::error_code error;
    fs::copy_file(from / (stand_in ? "round_idle_trainer" : name), to / name, error);
    if (error) return ErrnoStatus("copy to", (to / name).native(), error.value());
  }
  return OkStatus();
}

// The starter policy is for jobs of a hundred rounds.
Status WidenPolicy(const fs::path& policy) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(policy, 1 << 20));
  std::string out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    constexpr std::pair<const char*, const char*> kWider[] = {
        {"max_rounds", "100000"},
        {"max_rank", "1024"},
        {"max_exports_per_day", "100000"},
        {"max_exports_per_job", "100000"},
        {"max_bytes_per_day", "1000000000000"}};
    for (const auto& [key, value] : kWider) {
      if (line.starts_with(key)) line = fmt::format("{} = {}", key, value);
    }
    out += line + "\n";
  }
  return WriteFileDurably(policy, AsBytes(out), 0600);
}

PocOptions Federation(const Options& options) {
  PocOptions poc;
  poc.dir = options.dir / "federation";
  poc.base = options.base;
  poc.programs = options.dir / "programs";
  for (const char* name : {"north", "south"}) {
    PocSite site;
    site.name = name;
    site.records = options.dir / (std::string(name) + ".jsonl");
    poc.sites.push_back(site);
  }
  poc.job_toml = fmt::format(
      "rounds = {}\n[lora]\nr = {}\n[train]\nlocal_steps = 1\nbatch_size = 1\nmax_length = 32\n",
      options.rounds, options.rank);
  poc.dtype = "f32";
  return poc;
}

// What a growing file has more each time it is looked at.
class LogTail {
 public:
  static Result<LogTail> Open(const fs::path& path) {
    LogTail tail;
    tail.watch_ = Fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (::inotify_add_watch(tail.watch_.get(), path.c_str(), IN_MODIFY) < 0) {
      return Unexpected(ErrnoStatus("watch", path.native(), errno));
    }
    tail.stream_.open(path);
    return tail;
  }
  // The next whole line; nothing after so many milliseconds without one.
  std::optional<std::string> Line(int timeout_millis) {
    for (int tries = 0; tries < 2; ++tries) {
      stream_.clear();
      for (char c; stream_.get(c);) {
        if (c == '\n') return std::exchange(line_, {});
        line_ += c;
      }
      pollfd watched{watch_.get(), POLLIN, 0};
      if (tries == 0) ::poll(&watched, 1, timeout_millis);
      char events[4096];
      while (::read(watch_.get(), events, sizeof(events)) > 0) {
      }
    }
    return std::nullopt;
  }

 private:
  Fd watch_;
  std::ifstream stream_;
  std::string line_;
};

uint64_t ResidentBytes(pid_t pid) {
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::stoull(line.substr(6)) * 1024;
  }
  return 0;
}

using Memory = std::map<std::string, std::vector<std::pair<double, double>>>;

void LookAtMemory(const Poc& poc, int round, Memory* memory) {
  const auto note = [&](const std::string& name, pid_t pid) {
    (*memory)[name].emplace_back(round, static_cast<double>(ResidentBytes(pid)));
  };
  note("coordinator", poc.coordinator_pid());
  note("supervisor", poc.onshore_pid(0));
  for (const char* process : {"gate", "link", "trainer"}) note(process, poc.child_pid(0, process));
}

// Bytes a round, by least squares.
double Slope(const std::vector<std::pair<double, double>>& points) {
  double n = 0, x = 0, y = 0, xx = 0, xy = 0;
  for (const auto& [round, bytes] : points) {
    n += 1, x += round, y += bytes, xx += round * round, xy += round * bytes;
  }
  const double below = n * xx - x * x;
  return below == 0 ? 0 : (n * xy - x * y) / below;
}

struct Measured {
  std::vector<double> millis;
  Memory memory;
};

Result<Measured> Measure(const Options& options) {
  TG_ASSIGN_OR_RETURN(const fs::path own, OwnFolder());
  fs::remove_all(options.dir);
  TG_RETURN_IF_ERROR(CopyPrograms(own, options.dir / "programs", options.real_trainer));
  for (const char* name : {"north", "south"}) {
    std::string records;
    for (int i = 0; i < 8; ++i) {
      records += fmt::format("{{\"prompt\": \"{} {} is\", \"completion\": \" here\"}}\n", name, i);
    }
    TG_RETURN_IF_ERROR(
        WriteFileDurably(options.dir / (std::string(name) + ".jsonl"), AsBytes(records)));
  }
  Poc poc(Federation(options));
  TG_RETURN_IF_ERROR(poc.Provision());
  for (size_t site = 0; site < 2; ++site) {
    TG_RETURN_IF_ERROR(WidenPolicy(poc.site_dir(site) / "policy.toml"));
  }
  TG_RETURN_IF_ERROR(poc.Start());
  TG_ASSIGN_OR_RETURN(LogTail log, LogTail::Open(poc.coordinator_log()));
  TG_RETURN_IF_ERROR(poc.Submit());
  Measured measured;
  std::optional<Clock::time_point> last;
  auto give_up = Clock::now() + std::chrono::seconds(60);
  for (int version = 0; version < options.rounds;) {
    const auto line = log.Line(1000);
    const auto now = Clock::now();
    if (!line) {
      TG_RETURN_IF_ERROR(poc.RestartDead());
      if (now > give_up)
        return DeadlineExceeded("no round in a minute; see {}", poc.coordinator_log().native());
      continue;
    }
    if (line->find(" version_published ") == std::string::npos) continue;
    ++version;
    // The first round has the starts of the processes in it.
    if (last) {
      measured.millis.push_back(std::chrono::duration<double, std::milli>(now - *last).count());
    }
    last = now;
    give_up = now + std::chrono::seconds(60);
    if (options.rss_every > 0 && version % options.rss_every == 0 && version < options.rounds) {
      LookAtMemory(poc, version, &measured.memory);
    }
  }
  TG_RETURN_IF_ERROR(poc.Stop());
  return measured;
}

Result<bool> Run(const Options& options) {
  TG_ASSIGN_OR_RETURN(Measured measured, Measure(options));
  std::vector<double>& millis = measured.millis;
  std::sort(millis.begin(), millis.end());
  const auto at = [&](double share) {
    return millis[static_cast<size_t>(share * static_cast<double>(millis.size() - 1))];
  };
  bool good = at(0.5) <= options.limit_ms;
  nlohmann::ordered_json json = {
      {"bench", "round_processes"},  {"trainer", options.real_trainer ? "real" : "idle"},
      {"rounds", options.rounds},    {"rank", options.rank},
      {"median_ms", at(0.5)},        {"min_ms", at(0)},
      {"p90_ms", at(0.9)},           {"max_ms", at(1)},
      {"limit_ms", options.limit_ms}};
  for (auto& [name, points] : measured.memory) {
    nlohmann::ordered_json row;
    for (const auto& [round, bytes] : points) {
      row[fmt::format("kb_at_{}", round)] = std::lround(bytes / 1024);
    }
    // A page cache, a pool of the allocator: what fills up once is no growth.
    points.erase(points.begin(), points.begin() + static_cast<std::ptrdiff_t>(points.size() / 2));
    row["bytes_a_round"] = std::lround(Slope(points));
    good = good && Slope(points) <= (name == "gate" ? kMostGrowthOfGate : kMostGrowth);
    json["memory"][name] = row;
  }
  double load = 0;
  ::getloadavg(&load, 1);
  json["load"] = load;
  json["good"] = good;
  fmt::print("{}\n", json.dump(2));
  return good;
}

Result<Options> Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--base")
      options.base = value;
    else if (key == "--dir")
      options.dir = fs::absolute(value);
    else if (key == "--rounds")
      options.rounds = std::atoi(value.c_str());
    else if (key == "--rank")
      options.rank = std::atoi(value.c_str());
    else if (key == "--limit_ms")
      options.limit_ms = std::atof(value.c_str());
    else if (key == "--rss_every")
      options.rss_every = std::atoi(value.c_str());
    else if (key == "--trainer" && (value == "idle" || value == "real"))
      options.real_trainer = value == "real";
    else
      return InvalidArgument("no option {} {}", key, value);
  }
  if (options.base.empty() || options.rounds < 3) {
    return InvalidArgument("--base is missing or --rounds is under 3");
  }
  return options;
}

}  // namespace
}  // namespace tidegate::cli

int main(int argc, char** argv) {
  using namespace tidegate;
  const auto options = cli::Parse(argc, argv);
  const auto good = options ? cli::Run(*options) : Result<bool>(Unexpected(options.error()));
  if (!good) {
    std::fprintf(stderr, "round_processes_bench: %s\n", good.error().ToString().c_str());
    return 1;
  }
  return *good ? 0 : 1;
}
