// simulate: a federated job with all its sites in this process, or with those of one rank.
#include <toml++/toml.h>

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "base/file.h"
#include "onshore/ranks/sum_channel.h"
#include "onshore/trainer/simulation.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {
namespace {

using nlohmann::ordered_json;

struct Flags {
  SimulationOptions options;
  std::string job;                 // file
  std::vector<std::string> sites;  // NAME=RECORDS[:HELDOUT]
  bool over_ranks = false;         // standard input and output are tidegate-simulate's
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

Status TakeSites(Invocation& invocation, Flags& flags) {
  SimulationOptions& o = flags.options;
  if (o.light.sites > 0) return AllowRead(invocation, "records", o.light.records);
  for (const std::string& text : flags.sites) {
    TG_ASSIGN_OR_RETURN(SimulatedSite site, ParseSite(text));
    for (const SimulatedSite& other : o.sites) {
      if (other.name == site.name) return InvalidArgument("--site {} is given twice", site.name);
    }
    TG_RETURN_IF_ERROR(AllowRead(invocation, "site", site.records));
    if (!site.heldout.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "site", site.heldout));
    o.sites.push_back(std::move(site));
  }
  return OkStatus();
}

// Of ranks the first has looked at it before any of them was started.
Status MakeOut(const Flags& flags) {
  const std::filesystem::path& out = flags.options.out;
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (error) return Unavailable("cannot make {}: {}", out.native(), error.message());
  if (flags.over_ranks) return OkStatus();
  if (!std::filesystem::is_empty(out, error) || error) {
    return AlreadyExists("--out {} is not empty; give a new folder", out.native());
  }
  return OkStatus();
}

Status Prepare(Invocation& invocation, Flags& flags) {
  SimulationOptions& o = flags.options;
  if (o.rank >= o.ranks) return InvalidArgument("--rank {} of --ranks {}", o.rank, o.ranks);
  if (!(o.availability > 0 && o.availability <= 1)) {
    return InvalidArgument("--availability {} is not in (0, 1]", o.availability);
  }
  TG_ASSIGN_OR_RETURN(o.job_toml, ReadTextFile(flags.job, kMaxJobFile));
  o.job_name = flags.job;
  TG_RETURN_IF_ERROR(FindBase(flags));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "base", o.base));
  TG_RETURN_IF_ERROR(TakeSites(invocation, flags));
  TG_RETURN_IF_ERROR(MakeOut(flags));
  invocation.reads_input = flags.over_ranks;
  // Until the end of its round a rank reads nothing, and would not see that nobody waits for it.
  if (flags.over_ranks) ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  invocation.walls.read_write.push_back(o.out);
  return OkStatus();
}

ordered_json ResultJson(const SimulationResult& r, const SimulationOptions& o) {
  ordered_json json;
  json["job"] = r.job;
  json["sites"] = r.sites;
  json["ranks"] = r.ranks;
  json["finished"] = r.finished;
  json["version"] = r.version;
  json["rounds"] = ordered_json::array();
  uint64_t bytes = 0, bytes_down = 0, peak_bytes = 0;
  for (const SimulatedRound& round : r.rounds) {
    bytes += round.bytes;
    bytes_down += round.bytes_down;
    peak_bytes = std::max(peak_bytes, round.peak_bytes);
    json["rounds"].push_back({{"round", round.round},
                              {"version", round.version},
                              {"asked", round.asked},
                              {"updates", round.updates},
                              {"bytes", round.bytes},
                              {"bytes_down", round.bytes_down},
                              {"peak_bytes", round.peak_bytes},
                              {"seconds", round.seconds},
                              {"train_loss", round.train_loss},
                              {"heldout_loss", round.heldout_loss}});
  }
  json["bytes"] = bytes;
  json["bytes_down"] = bytes_down;
  json["peak_bytes"] = peak_bytes;
  json["adapter"] = r.adapter.native();
  json["chart"] = (o.out / "rounds.svg").native();
  json["page"] = (o.out / "rounds.html").native();
  json["seconds"] = r.seconds;
  return json;
}

Status AddOverPipes(std::span<int64_t> values) {
  TG_RETURN_IF_ERROR(onshore::SendSum(STDOUT_FILENO, values));
  TG_ASSIGN_OR_RETURN(const auto sum, onshore::ReceiveSum(STDIN_FILENO));
  if (!sum) return Cancelled("another rank has ended");
  if (sum->values.size() != values.size()) {
    return Internal("{} values went to the other ranks, {} came back", values.size(),
                    sum->values.size());
  }
  std::copy(sum->values.begin(), sum->values.end(), values.begin());
  return OkStatus();
}

Status PrintResult(const Invocation& invocation, const Flags& flags,
                   const SimulationResult& result) {
  const ordered_json json = ResultJson(result, flags.options);
  const std::string text = fmt::format(
      "{} {} rounds, {} sites, {} bytes of updates, {:.1f} s; shared adapter: {}\n",
      result.finished ? "finished:" : "ended early:", result.rounds.size(), result.sites,
      json["bytes"].get<uint64_t>(), result.seconds, result.adapter.native());
  if (flags.over_ranks) TG_RETURN_IF_ERROR(onshore::SendTextFollows(STDOUT_FILENO));
  return Print(invocation, json, text);
}

Status Run(const Invocation& invocation, Flags& flags) {
  CatchStopSignals();
  SimulationOptions& o = flags.options;
  o.should_stop = StopAsked;
  if (flags.over_ranks) {
    std::signal(SIGPIPE, SIG_IGN);
    o.add_over_ranks = AddOverPipes;
  }
  const bool first = o.rank == 0;
  o.progress = invocation.json || !first ? nullptr : stderr;
  TG_ASSIGN_OR_RETURN(const SimulationResult result, Simulate(o));
  if (!first) return OkStatus();  // the first one speaks for all
  TG_RETURN_IF_ERROR(PrintResult(invocation, flags, result));
  if (result.finished) return OkStatus();
  return FailedPrecondition(
      "three rounds in a row were below their quorum; lower quorum or raise --availability");
}

void CheckUsage(const CLI::App& verb) {
  const bool light = verb.get_option("--light")->count() > 0;
  if (light) {
    RefuseGiven(verb, {"site"},
                "names a site with its records, --light has sites without: give one");
    if (verb.get_option("--records")->count() == 0) throw CLI::RequiredError("--records");
    return;
  }
  if (verb.get_option("--site")->count() == 0) throw CLI::RequiredError("--site or --light");
  RefuseGiven(verb, {"records", "records_per_site"}, "is for --light: give that too");
}

void AddSites(CLI::App& verb, Flags& flags) {
  LightOptions& light = flags.options.light;
  verb.add_option("--site", flags.sites, "NAME=RECORDS[:HELDOUT], once for each site");
  verb.add_option("--light", light.sites,
                  "So many sites that keep nothing between rounds, with slices of --records")
      ->check(CLI::Range(1u, kMaxLightSites));
  verb.add_option("--records", light.records, "JSONL; with --light");
  verb.add_option(Flag("records_per_site"), light.records_per_site,
                  "Usable records of a light site, from a place drawn by the job's seed")
      ->check(CLI::Range(1u, kMaxRecordsPerSite))
      ->capture_default_str();
}

// How tidegate-simulate starts its ranks' trainers.
void AddRanks(CLI::App& verb, Flags& flags) {
  SimulationOptions& o = flags.options;
  CLI::Option* ranks = verb.add_option("--ranks", o.ranks, "")->group("");
  CLI::Option* rank = verb.add_option("--rank", o.rank, "")->group("");
  ranks->check(CLI::Range(1, 65536))->needs(rank);
  rank->check(CLI::Range(0, 65535))->needs(ranks);
  ranks->each([&flags](const std::string&) { flags.over_ranks = true; });
  verb.footer(
      "--nproc N: start N ranks with mpirun, each with the sites that are its own; the result has "
      "the same bits. mpirun and srun start them as tidegate-simulate with these options, too.");
}

}  // namespace

void RegisterSimulate(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  SimulationOptions& o = flags->options;
  CLI::App* verb = AddVerb(
      app, "simulate", "Play a federated job with all its sites in one process", invocation,
      [&invocation, flags] { return Prepare(invocation, *flags); },
      [&invocation, flags](const std::string&) { return Run(invocation, *flags); }, CheckUsage);
  verb->add_option("job", flags->job, "The job file, as for `tidegate job submit`")->required();
  AddSites(*verb, *flags);
  AddRanks(*verb, *flags);
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
