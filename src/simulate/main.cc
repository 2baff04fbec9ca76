// tidegate-simulate: `tidegate simulate` over ranks of MPI, started by mpirun, srun or --nproc. All
// its words but --nproc and --deadline are tidegate-trainer's, which checks them.
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "base/program.h"
#include "cluster/mpi_group.h"
#include "simulate/launch.h"
#include "simulate/rank.h"

namespace tidegate::simulate {
namespace {

constexpr int kMaxDeadlineSeconds = 30 * 86'400;

struct CommandLine {
  int nproc = 0;
  int deadline_seconds = 86'400;  // a round of many sites on one rank takes its time
  std::filesystem::path out;
  bool json = false;
  bool help = false;
  bool version = false;
  std::vector<std::string> words;  // the trainer's
};

Result<int> NumberOf(const std::string& flag, const std::string& text, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > most) {
    return InvalidArgument("{} {} must be a whole number, 1 … {}", flag, text, most);
  }
  return value;
}

Result<CommandLine> Parse(const std::vector<std::string>& words) {
  CommandLine line;
  for (size_t i = 0; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    const std::string flag = words[i].substr(0, equals);
    const bool ours = flag == "--nproc" || flag == "--deadline";
    const bool looked_at = ours || flag == "--out" || flag == "--format";
    line.help = line.help || flag == "--help" || flag == "-h";
    line.version = line.version || flag == "--version";
    if (!looked_at) {
      line.words.push_back(words[i]);
      continue;
    }
    if (equals == std::string::npos && i + 1 == words.size()) {
      return InvalidArgument("{} needs a value", flag);
    }
    const std::string value =
        equals == std::string::npos ? words[++i] : words[i].substr(equals + 1);
    if (flag == "--nproc") {
      TG_ASSIGN_OR_RETURN(line.nproc, NumberOf(flag, value, cluster::kMaxRanks));
    } else if (flag == "--deadline") {
      TG_ASSIGN_OR_RETURN(line.deadline_seconds, NumberOf(flag, value, kMaxDeadlineSeconds));
    } else {
      if (flag == "--out") line.out = value;
      if (flag == "--format") line.json = value == "json";
      line.words.insert(line.words.end(), {flag, value});
    }
  }
  return line;
}

int Fail(const CommandLine& line, const Status& status) {
  std::string text = fmt::format("tidegate simulate: {}", status.ToString());
  if (line.json) {
    nlohmann::ordered_json json;
    json["error"] = {{"code", CodeName(status.code())}, {"message", status.message()}};
    text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  std::fprintf(stderr, "%s\n", text.c_str());
  return static_cast<int>(status.code());
}

std::vector<char*> Argv(std::vector<std::string>& words) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  return argv;
}

std::filesystem::path Self() { return std::filesystem::read_symlink("/proc/self/exe"); }

int StartRanks(const CommandLine& line) {
  std::vector<std::string> words = {"mpirun",    "-n",   std::to_string(line.nproc),
                                    "--bind-to", "none", "--oversubscribe"};
  // OpenMPI refuses root unless it is told twice; a container often has no one else.
  if (::geteuid() == 0) words.push_back("--allow-run-as-root");
  words.insert(words.end(), {Self().native(), "--deadline", std::to_string(line.deadline_seconds)});
  words.insert(words.end(), line.words.begin(), line.words.end());
  const Result<int> code = RunLauncher(std::move(words));
  return code ? *code : Fail(line, code.error());
}

// By rank 0 before any other rank writes there; the others hear its exit code.
Status CheckOut(const CommandLine& line, cluster::Collectives& group) {
  Status status = OkStatus();
  if (group.rank() == 0 && !line.out.empty()) {
    std::error_code error;
    std::filesystem::create_directories(line.out, error);
    if (error) {
      status = Unavailable("cannot make {}: {}", line.out.native(), error.message());
    } else if (!std::filesystem::is_empty(line.out, error) || error) {
      status = AlreadyExists("--out {} is not empty; give a new folder", line.out.native());
    }
  }
  auto code = static_cast<int64_t>(status.code());
  TG_RETURN_IF_ERROR(group.Broadcast("out", &code, 1, cluster::DType::kI64, 0));
  if (!status.ok() || code == 0) return status;
  return Cancelled("rank 0 refused --out");
}

int RunRank(const CommandLine& line, std::vector<std::string> trainer) {
  auto joined = cluster::JoinMpi({.deadline = std::chrono::seconds(line.deadline_seconds)});
  if (!joined) return Fail(line, joined.error());
  cluster::Collectives& group = **joined;
  if (const Status status = CheckOut(line, group); !status.ok()) {
    return group.rank() == 0 || status.code() != Code::kCancelled ? Fail(line, status)
                                                                  : static_cast<int>(status.code());
  }
  const Result<int> code = PlayRank(std::move(trainer), group, STDOUT_FILENO);
  return code ? *code : Fail(line, code.error());
}

int Main(int argc, char** argv) {
  SetLogProcess("simulate");
  const Result<CommandLine> line = Parse({argv + 1, argv + argc});
  if (!line) {
    (void)Fail({}, line.error());
    return kExitUsage;
  }
  if (line->version) {
    std::printf("tidegate-simulate %s\n", Version());
    return 0;
  }
  std::vector<std::string> trainer = {(Self().parent_path() / "tidegate-trainer").native(),
                                      "simulate"};
  trainer.insert(trainer.end(), line->words.begin(), line->words.end());
  if (line->help) {
    ::execv(trainer[0].c_str(), Argv(trainer).data());
    return Fail(*line, ErrnoStatus("execute", trainer[0], errno));
  }
  if (line->nproc > 0) return StartRanks(*line);
  ::signal(SIGPIPE, SIG_IGN);
  (void)::setenv(kOpenMpSpins[0], kOpenMpSpins[1], 0);  // what the user chose stands
  return RunRank(*line, std::move(trainer));
}

}  // namespace
}  // namespace tidegate::simulate

int main(int argc, char** argv) { return tidegate::simulate::Main(argc, argv); }
