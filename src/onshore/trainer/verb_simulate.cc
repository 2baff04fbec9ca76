// simulate: a federated job with all its sites in this process.
#include <toml++/toml.h>

#include <algorithm>

#include "base/file.h"
#include "onshore/trainer/simulation.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {
namespace {

using nlohmann::ordered_json;

struct Flags {
  SimulationOptions options;
  std::string job;                 // file
  std::vector<std::string> sites;  // NAME=RECORDS[:HELDOUT]
};

constexpr uint64_t kMaxJobFile = 1 << 20;

Result<SimulatedSite> ParseSite(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    return InvalidArgument("--site {} must be NAME=RECORDS or NAME=RECORDS:HELDOUT", text);
  }
  SimulatedSite site;
  site.name = text.substr(0, equals);
  // It names a folder, too.
  const bool good =
      site.name.size() <= 63 && std::all_of(site.name.begin(), site.name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
      });
  if (!good) {
    return InvalidArgument("--site {}: a name is 1 … 63 of a-z 0-9 - _", site.name);
  }
  const std::string files = text.substr(equals + 1);
  const size_t colon = files.find(':');
  site.records = files.substr(0, colon);
  if (colon != std::string::npos) site.heldout = files.substr(colon + 1);
  return site;
}

// The base of the job file, which is relative to it, unless --base names another.
Status FindBase(Flags& flags) {
  SimulationOptions& o = flags.options;
  if (!o.base.empty()) return OkStatus();
  try {
    const toml::table table = toml::parse(o.job_toml, flags.job);
    const auto base = table["base"].value<std::string>();
    if (!base) {
      return InvalidArgument("{} names no base; give --base, the HF folder of the model",
                             flags.job);
    }
    o.base = std::filesystem::path(flags.job).parent_path() / *base;
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", flags.job, e.source().begin.line,
                           std::string(e.description()));
  }
  return OkStatus();
}

Status Prepare(Invocation& invocation, Flags& flags) {
  SimulationOptions& o = flags.options;
  if (!(o.availability > 0 && o.availability <= 1)) {
    return InvalidArgument("--availability {} is not in (0, 1]", o.availability);
  }
  TG_ASSIGN_OR_RETURN(o.job_toml, ReadTextFile(flags.job, kMaxJobFile));
  o.job_name = flags.job;
  TG_RETURN_IF_ERROR(FindBase(flags));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "base", o.base));
  for (const std::string& text : flags.sites) {
    TG_ASSIGN_OR_RETURN(SimulatedSite site, ParseSite(text));
    for (const SimulatedSite& other : o.sites) {
      if (other.name == site.name) return InvalidArgument("--site {} is given twice", site.name);
    }
    TG_RETURN_IF_ERROR(AllowRead(invocation, "site", site.records));
    if (!site.heldout.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "site", site.heldout));
    o.sites.push_back(std::move(site));
  }
  std::error_code error;
  std::filesystem::create_directories(o.out, error);
  if (error) return Unavailable("cannot make {}: {}", o.out.native(), error.message());
  if (!std::filesystem::is_empty(o.out, error) || error) {
    return AlreadyExists("--out {} is not empty; give a new folder", o.out.native());
  }
  invocation.walls.read_write.push_back(o.out);
  return OkStatus();
}

ordered_json ResultJson(const SimulationResult& r, const SimulationOptions& o) {
  ordered_json json;
  json["job"] = r.job;
  json["finished"] = r.finished;
  json["version"] = r.version;
  json["rounds"] = ordered_json::array();
  uint64_t bytes = 0;
  for (const SimulatedRound& round : r.rounds) {
    bytes += round.bytes;
    json["rounds"].push_back({{"round", round.round},
                              {"version", round.version},
                              {"asked", round.asked},
                              {"updates", round.updates},
                              {"bytes", round.bytes},
                              {"train_loss", round.train_loss},
                              {"heldout_loss", round.heldout_loss}});
  }
  json["bytes"] = bytes;
  json["adapter"] = r.adapter.native();
  json["chart"] = (o.out / "rounds.svg").native();
  json["seconds"] = r.seconds;
  return json;
}

Status Run(const Invocation& invocation, Flags& flags) {
  CatchStopSignals();
  flags.options.should_stop = StopAsked;
  flags.options.progress = invocation.json ? nullptr : stderr;
  TG_ASSIGN_OR_RETURN(const SimulationResult result, Simulate(flags.options));
  const ordered_json json = ResultJson(result, flags.options);
  const std::string text =
      fmt::format("{} {} rounds, {} sites, {} bytes of updates, {:.1f} s; shared adapter: {}\n",
                  result.finished ? "finished:" : "ended early:", result.rounds.size(),
                  flags.options.sites.size(), json["bytes"].get<uint64_t>(), result.seconds,
                  result.adapter.native());
  TG_RETURN_IF_ERROR(Print(invocation, json, text));
  if (result.finished) return OkStatus();
  return FailedPrecondition(
      "three rounds in a row were below their quorum; lower quorum or raise --availability");
}

}  // namespace

void RegisterSimulate(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  SimulationOptions& o = flags->options;
  CLI::App* verb = AddVerb(
      app, "simulate", "Play a federated job with all its sites in one process", invocation,
      [&invocation, flags] { return Prepare(invocation, *flags); },
      [&invocation, flags](const std::string&) { return Run(invocation, *flags); });
  verb->add_option("job", flags->job, "The job file, as for `tidegate job submit`")->required();
  verb->add_option("--site", flags->sites, "NAME=RECORDS[:HELDOUT], once for each site")
      ->required();
  verb->add_option("--out", o.out, "New folder for the adapter, the rounds and the sites' states")
      ->required();
  verb->add_option("--base", o.base, "HF folder of the base model; without it the job file's");
  verb->add_option("--availability", o.availability,
                   "Share of the rounds in which a site is there, drawn by the job's seed")
      ->capture_default_str();
  verb->add_option("--threads", o.threads, "0: all CPUs of this process")->capture_default_str();
  verb->add_option("--dtype", o.dtype, "auto, bf16 or f32")->capture_default_str();
}

}  // namespace tidegate::trainer
