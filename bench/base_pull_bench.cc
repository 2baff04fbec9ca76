// A base from a coordinator to a site over a long line that is cut, with every process of the
// product and the emulator of tests/transport in between.
//
//   base_pull_bench [--megabytes 1000] [--mbit 100] [--delay_ms 100] [--cuts 5] [--stripes 1]
//                   [--dir FOLDER]
//
// --delay_ms is one way. Prints JSON: the share of the line's rate from the gate's first question
// to its last block on disk, and what the whole verb took. Exit code 1 under 90 % of the line.
#include <poll.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "base/file.h"
#include "base/subprocess.h"
#include "cli/poc.h"
#include "crypto/base_hash.h"
#include "tests/bases/llama_base.h"
#include "tests/transport/link_emulator.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double kWantedShare = 0.9;

struct Options {
  double megabytes = 1000, mbit = 100, delay_ms = 100;
  int cuts = 5, stripes = 1;
  fs::path dir = fs::temp_directory_path() / "tidegate_base_pull_bench";
};

double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

Status Replace(const fs::path& file, const std::string& before, const std::string& after) {
  TG_ASSIGN_OR_RETURN(std::string text, ReadTextFile(file, 1 << 20));
  const size_t at = text.find(before);
  if (at == std::string::npos) return Internal("no {} in {}", before, file.native());
  text.replace(at, before.size(), after);
  return WriteFileDurably(file, AsBytes(text), 0600);
}

// The site's way to the coordinator leads over the line, and its policy pins the base.
Result<std::unique_ptr<transport::LinkEmulator>> PutLine(const Options& options, const Poc& poc,
                                                         const Digest& base_hash) {
  const fs::path config = poc.site_dir(0) / "site.toml";
  TG_RETURN_IF_ERROR(Replace(poc.site_dir(0) / "policy.toml", "base_hashes = [",
                             "base_hashes = [\"" + ToHex(base_hash) + "\", "));
  TG_ASSIGN_OR_RETURN(std::string text, ReadTextFile(config, 1 << 20));
  const std::string local = "tcp://127.0.0.1:";
  const size_t at = text.find(local);
  if (at == std::string::npos) return Internal("no address in {}", config.native());
  const int port = std::stoi(text.substr(at + local.size()));
  TG_ASSIGN_OR_RETURN(auto line,
                      transport::LinkEmulator::Start(port, {.bits_per_second = options.mbit * 1e6,
                                                            .delay_millis = options.delay_ms}));
  TG_RETURN_IF_ERROR(
      Replace(config, local + std::to_string(port), local + std::to_string(line->port())));
  TG_ASSIGN_OR_RETURN(text, ReadTextFile(config, 1 << 20));
  TG_RETURN_IF_ERROR(WriteFileDurably(
      config, AsBytes(text + fmt::format("stripes = {}\n", options.stripes)), 0600));
  return line;
}

Result<bool> Run(const Options& options) {
  std::error_code error;
  fs::remove_all(options.dir, error);
  fs::create_directories(options.dir, error);
  const fs::path big = options.dir / "big", small = options.dir / "small";
  // Some megabytes of vocabulary and layers of 101 MB.
  const auto layers = static_cast<int64_t>(options.megabytes / 101.2);
  const auto vocab =
      static_cast<int64_t>((options.megabytes - 101.2 * static_cast<double>(layers)) * 1e6 /
                           (2 * 2 * 2048)) +
      16;
  TG_RETURN_IF_ERROR(bases::WriteLlamaBase(
      big, {.hidden = 2048, .inner = 5504, .layers = layers, .vocab = vocab}));
  TG_RETURN_IF_ERROR(bases::WriteLlamaBase(small, {.layers = 1, .vocab = 64}));
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  PocOptions setup;
  setup.dir = options.dir / "federation";
  setup.base = small;
  setup.programs = self.parent_path();
  PocSite site;
  site.name = "north";
  site.records = options.dir / "north.jsonl";
  TG_RETURN_IF_ERROR(
      WriteFileDurably(site.records, AsBytes("{\"prompt\": \"a\", \"completion\": \"b\"}\n")));
  setup.sites = {site};
  setup.job_toml = "rounds = 1\n";
  Poc poc(std::move(setup));
  TG_RETURN_IF_ERROR(poc.Provision());
  TG_ASSIGN_OR_RETURN(const Digest hash, crypto::BaseHash(big));
  const uint64_t bytes =
      fs::file_size(big / "model.safetensors") + fs::file_size(big / "config.json");
  TG_ASSIGN_OR_RETURN(const auto line, PutLine(options, poc, hash));
  TG_RETURN_IF_ERROR(poc.Start());
  const std::string tidegate = (self.parent_path() / "tidegate").native();
  const auto publishing = Clock::now();
  TG_ASSIGN_OR_RETURN(
      [[maybe_unused]] const std::string published,
      RunCommandOk({tidegate, "base", "publish", big.native(), "--dir",
                    poc.coordinator_dir().native(), "--name", "big", "--licence", "none"},
                   600'000));
  const auto start = Clock::now();
  const fs::path shelf = poc.site_dir(0) / "gate" / "bases";
  TG_ASSIGN_OR_RETURN(ChildProcess pull, ChildProcess::Start({tidegate, "base", "pull", "big",
                                                              "--dir", poc.site_dir(0).native()},
                                                             options.dir / "pull.log"));
  // The index comes first; what was said before are leases.
  const uint64_t before = line->counts().down_bytes;
  auto first = start, last = start;
  std::optional<int> code;
  int cuts = 0;
  while (!code) {
    code = pull.Wait(2);
    TG_RETURN_IF_ERROR(poc.RestartDead());
    const uint64_t down = line->counts().down_bytes - before;
    if (first == start && down > 4096) first = Clock::now();
    if (last == start && fs::exists(shelf / "answers" / "big@1.full", error)) last = Clock::now();
    const double part = static_cast<double>(down) / static_cast<double>(bytes);
    if (cuts < options.cuts && part > (cuts + 0.7) / options.cuts) {
      line->Cut();
      ++cuts;
    }
  }
  const auto end = Clock::now();
  if (*code != 0) {
    return Internal("the pull ended with {}: {}", *code,
                    ReadTextFile(options.dir / "pull.log", 1 << 20).value_or(""));
  }
  // The first question was on its way for as long as the first answer.
  const double seconds = Seconds(first, last) + 2 * options.delay_ms / 1000;
  const double needed = static_cast<double>(bytes) * 8 / (options.mbit * 1e6);
  const auto counts = line->counts();
  double load = 0;
  (void)::getloadavg(&load, 1);
  const nlohmann::ordered_json report = {
      {"bytes", bytes},
      {"mbit_per_second", options.mbit},
      {"round_trip_ms", 2 * options.delay_ms},
      {"cuts", cuts},
      {"stripes", options.stripes},
      {"seconds", seconds},
      {"line_needs_seconds", needed},
      {"share_of_line", needed / seconds},
      {"sent_again_bytes",
       static_cast<int64_t>(counts.down_bytes - before) - static_cast<int64_t>(bytes)},
      {"slowest_redial_ms", counts.slowest_redial_millis},
      {"verb_seconds", Seconds(start, end)},
      {"publish_seconds", Seconds(publishing, start)},
      {"load_average", load}};
  fmt::print("{}\n", report.dump(2));
  TG_RETURN_IF_ERROR(poc.Stop());
  fs::remove_all(options.dir, error);
  return needed / seconds >= kWantedShare && cuts == options.cuts;
}

Result<Options> Parse(int count, char** words) {
  Options options;
  const std::map<std::string_view, double*> numbers = {{"--megabytes", &options.megabytes},
                                                       {"--mbit", &options.mbit},
                                                       {"--delay_ms", &options.delay_ms}};
  const std::map<std::string_view, int*> counts = {{"--cuts", &options.cuts},
                                                   {"--stripes", &options.stripes}};
  for (int i = 1; i < count; i += 2) {
    const std::string_view name = words[i];
    if (i + 1 == count) return InvalidArgument("{}: value missing", name);
    if (name == "--dir") {
      options.dir = words[i + 1];
    } else if (const auto number = numbers.find(name); number != numbers.end()) {
      *number->second = std::atof(words[i + 1]);
    } else if (const auto whole = counts.find(name); whole != counts.end()) {
      *whole->second = std::atoi(words[i + 1]);
    } else {
      return InvalidArgument("{}: no such option, see the head of this file", name);
    }
  }
  if (options.megabytes < 1 || options.mbit <= 0 || options.cuts < 0 || options.stripes < 1) {
    return InvalidArgument("the numbers must be larger, see the head of this file");
  }
  return options;
}

}  // namespace
}  // namespace tidegate::cli

int main(int argc, char** argv) {
  const auto options = tidegate::cli::Parse(argc, argv);
  const auto good = options ? tidegate::cli::Run(*options)
                            : tidegate::Result<bool>(tidegate::Unexpected(options.error()));
  if (!good) fmt::print(stderr, "base_pull_bench: {}\n", good.error().ToString());
  return good && *good ? 0 : 1;
}
