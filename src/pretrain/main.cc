// tidegate-pretrain: trains a base from token shards, on one rank, or on those that mpirun, srun or
// --nproc start.
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/program.h"
#include "cluster/mpi_group.h"
#include "pretrain/device_group.h"
#include "pretrain/launcher.h"
#include "pretrain/options.h"
#include "pretrain/run.h"
#include "pretrain/token_samples.h"

namespace tidegate::pretrain {
namespace {

std::atomic<bool> g_stop{false};

void CatchSignals() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_stop = true; };
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGUSR1, &action, nullptr);  // what mpirun hands on
}

// libgomp reads this once, when it is loaded (base/program.h).
void StartAgainWithShortSpins(char** argv) {
  if (std::getenv(kOpenMpSpins[0]) != nullptr) return;
  ::setenv(kOpenMpSpins[0], kOpenMpSpins[1], 1);
  ::execv("/proc/self/exe", argv);  // if not: slower, not wrong
}

int NumberIn(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

// Whether a launcher of MPI ranks started this process.
bool UnderLauncher() {
  return NumberIn("OMPI_COMM_WORLD_SIZE") > 0 || NumberIn("PMI_SIZE") > 0 ||
         std::getenv("PMIX_RANK") != nullptr;
}

// CPUs that this process may use, or its share of them where the ranks were not bound.
int ShareOfCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  const int mine = CPU_COUNT(&set);
  const auto all = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  const int ranks =
      std::max({1, NumberIn("OMPI_COMM_WORLD_LOCAL_SIZE"), NumberIn("SLURM_NTASKS_PER_NODE")});
  return mine < all ? mine : std::max(1, mine / ranks);
}

cluster::GroupOptions GroupOptionsOf(const CommandLine& line) {
  return {.deadline = std::chrono::seconds(line.deadline_seconds)};
}

nlohmann::ordered_json Json(const RunReport& report) {
  nlohmann::ordered_json out;
  out["steps"] = report.steps;
  out["total_steps"] = report.total_steps;
  out["resumed_at"] = report.resumed_at;
  out["loss"] = report.loss;
  if (report.has_held_out) out["held_out_nll"] = report.held_out_nll;
  out["tokens_per_second"] = report.tokens_per_second;
  out["base"] = report.base.native();
  return out;
}

int Say(const CommandLine& line, const RunReport& report) {
  std::string text = Json(report).dump(2) + "\n";
  if (line.format == "text") {
    text = fmt::format("{} of {} steps, last loss {:.4f}", report.steps, report.total_steps,
                       report.loss);
    if (report.has_held_out) text += fmt::format(", held-out NLL {:.4f}", report.held_out_nll);
    text += fmt::format(", {:.0f} tokens/s\nbase: {}\n", report.tokens_per_second,
                        report.base.native());
  }
  const bool written = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  return written ? 0 : static_cast<int>(Code::kUnavailable);
}

int Fail(const CommandLine& line, const Status& status) {
  if (line.format == "json") {
    nlohmann::ordered_json out;
    out["error"]["code"] = CodeName(status.code());
    out["error"]["message"] = status.message();
    std::fputs((out.dump() + "\n").c_str(), stderr);
  } else {
    std::fputs((status.ToString() + "\n").c_str(), stderr);
  }
  return static_cast<int>(status.code());
}

int LocalRank() {
  return std::max(NumberIn("OMPI_COMM_WORLD_LOCAL_RANK"), NumberIn("SLURM_LOCALID"));
}

Result<RunReport> RunRank(const CommandLine& line,
                          const std::shared_ptr<cluster::Collectives>& group) {
  const PretrainConfig& config = line.config;
  RunParts parts;
  TG_ASSIGN_OR_RETURN(const auto train,
                      OpenSamples(config.data, config.max_length, config.seed, true));
  parts.train = train.get();
  std::unique_ptr<SampleSource> held_out;
  if (!config.eval_data.empty()) {
    TG_ASSIGN_OR_RETURN(held_out,
                        OpenSamples(config.eval_data, config.max_length, config.seed, false));
    parts.held_out = held_out.get();
  }
  parts.control = parts.data = group.get();
  std::unique_ptr<cluster::Collectives> gpus;
  if (group != nullptr && config.device == "cuda") {
    TG_ASSIGN_OR_RETURN(gpus, JoinGpus(group, GroupOptionsOf(line)));
    parts.data = gpus.get();
  }
  parts.stop_asked = [] { return g_stop.load(); };
  parts.progress = stderr;
  parts.terminal = ::isatty(STDERR_FILENO) != 0;
  return RunPretraining(config, parts);
}

int RunHere(CommandLine& line) {
  CatchSignals();
  if (line.config.threads == 0) line.config.threads = ShareOfCpus();
  std::shared_ptr<cluster::Collectives> group;
  if (line.config.device == "cuda") SeeOneGpu(LocalRank());
  if (UnderLauncher()) {
    auto joined = cluster::JoinMpi(GroupOptionsOf(line));
    if (!joined) return Fail(line, joined.error());
    if ((*joined)->size() > 1) group = std::move(*joined);
  }
  const int rank = group == nullptr ? 0 : group->rank();
  LogInfo("rank_started rank={} of={} pid={} threads={}", rank,
          group == nullptr ? 1 : group->size(), ::getpid(), line.config.threads);
  const auto report = RunRank(line, group);
  if (report) return rank == 0 ? Say(line, *report) : 0;
  // Ended by a peer, which says why: to the launcher this rank is lost, not told to stop.
  if (report.error().code() == Code::kCancelled && !g_stop && group != nullptr) {
    const bool asked = report.error().message().starts_with("stopped at step");
    if (!asked) return Fail(line, Status(Code::kUnavailable, report.error().message()));
  }
  return rank == 0 || report.error().code() != Code::kCancelled
             ? Fail(line, report.error())
             : static_cast<int>(Code::kCancelled);
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Trains a base model from token shards. Exit codes: docs/exit-codes.md; 11 when a signal "
      "ended it, with its state saved.",
      "tidegate-pretrain");
  CommandLine line;
  AddOptions(app, &line);
  app.set_version_flag("--version", std::string("tidegate-pretrain ") + Version());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kExitUsage;
  }
  SetLogProcess("pretrain");
  if (line.nproc > 0) {
    LaunchOptions launch;
    launch.ranks = line.nproc;
    launch.max_restarts = line.max_restarts;
    launch.output_dir = line.config.output_dir;
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      if (word == "--nproc") ++i;
      if (word == "--nproc" || word.starts_with("--nproc=")) continue;
      launch.arguments.push_back(word);
    }
    if (Status status = CheckConfig(line.config); !status.ok()) return Fail(line, status);
    return LaunchRanks(launch);
  }
  StartAgainWithShortSpins(argv);
  return RunHere(line);
}

}  // namespace
}  // namespace tidegate::pretrain

int main(int argc, char** argv) { return tidegate::pretrain::Main(argc, argv); }
