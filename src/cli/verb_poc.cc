// poc: a whole federation on this machine, as real processes.
#include <toml++/toml.h>

#include <algorithm>
#include <sstream>

#include "base/file.h"
#include "cli/poc.h"
#include "cli/verb.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

struct PocFlags {
  PocOptions options;
  std::vector<std::string> sites;  // NAME=RECORDS[:HELDOUT]
  std::vector<std::string> hold;   // NAME
  std::string job;                 // file
};

Result<PocSite> ParseSite(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    return InvalidArgument("--site {} must be NAME=RECORDS or NAME=RECORDS:HELDOUT", text);
  }
  PocSite site;
  site.name = text.substr(0, equals);
  const std::string files = text.substr(equals + 1);
  const size_t colon = files.find(':');
  site.records = files.substr(0, colon);
  if (colon != std::string::npos) site.heldout = files.substr(colon + 1);
  std::error_code error;
  for (const auto& path : {site.records, site.heldout}) {
    if (!path.empty() && !std::filesystem::exists(path, error)) {
      return NotFound("--site {}: {} does not exist", site.name, path.native());
    }
  }
  return site;
}

// A federation's job file as poc takes it: its name is poc's, its base what --base says, or else
// the file's, relative to it. The lines of both become empty, so that the others keep their
// numbers.
Status TakeJobFile(const std::string& file, PocOptions* options) {
  TG_ASSIGN_OR_RETURN(std::string text, ReadTextFile(file, 1 << 20));
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  try {
    const toml::table table = toml::parse(text, file);
    for (const auto& [key, node] : table) {
      if (key.str() != "name" && key.str() != "base") continue;
      if (key.str() == "base" && options->base.empty()) {
        options->base = std::filesystem::path(file).parent_path() / node.value_or(std::string());
      }
      const uint32_t first = key.source().begin.line, last = node.source().end.line;
      for (uint32_t line = first; line <= last && line <= lines.size(); ++line) {
        lines[line - 1].clear();
      }
    }
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", file, e.source().begin.line,
                           std::string(e.description()));
  }
  for (const std::string& line : lines) options->job_toml += line + "\n";
  return OkStatus();
}

ordered_json ResultJson(const PocResult& r) {
  ordered_json sites = ordered_json::array();
  for (const PocSiteResult& s : r.sites) {
    sites.push_back({{"name", s.name},
                     {"dir", s.dir.native()},
                     {"exports", s.exports},
                     {"bytes_out", s.bytes_out},
                     {"ledger", s.ledger.native()},
                     {"receipt", s.receipt.native()},
                     {"key", s.key},
                     {"ledger_verified", s.ledger_verified},
                     {"ledger_text", s.ledger_text}});
  }
  return {{"job", r.job},
          {"rounds", r.rounds},
          {"adapter", r.adapter.native()},
          {"sites", sites},
          {"seconds", r.seconds}};
}

std::string ResultText(const ordered_json& r) {
  std::string text =
      fmt::format("{} rounds in {:.1f} s; shared adapter: {}\n", r["rounds"].get<int64_t>(),
                  r["seconds"].get<double>(), r["adapter"].get<std::string>());
  for (const auto& s : r["sites"]) {
    text += fmt::format("{}: {} exports, {} bytes left, ledger {}\n", s["name"].get<std::string>(),
                        s["exports"].get<int64_t>(), s["bytes_out"].get<int64_t>(),
                        s["ledger_verified"].get<bool>() ? "verified" : "NOT verified");
  }
  return text;
}

Status RunPoc(const Invocation& invocation, PocFlags& flags) {
  for (const std::string& text : flags.sites) {
    TG_ASSIGN_OR_RETURN(PocSite site, ParseSite(text));
    flags.options.sites.push_back(std::move(site));
  }
  for (const std::string& name : flags.hold) {
    const auto site = std::find_if(flags.options.sites.begin(), flags.options.sites.end(),
                                   [&name](const PocSite& s) { return s.name == name; });
    if (site == flags.options.sites.end()) {
      return InvalidArgument("--hold {} is the name of no --site", name);
    }
    site->hold = true;
  }
  if (!flags.job.empty()) TG_RETURN_IF_ERROR(TakeJobFile(flags.job, &flags.options));
  if (flags.options.base.empty()) {
    return InvalidArgument("give --base, the HF folder of the model, or a job file that names it");
  }
  std::error_code error;
  flags.options.programs = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  flags.options.progress = stderr;
  Poc poc(flags.options);
  TG_ASSIGN_OR_RETURN(const PocResult result, poc.Run());
  TG_RETURN_IF_ERROR(Print(invocation, ResultJson(result), ResultText));
  for (const PocSiteResult& site : result.sites) {
    if (!site.ledger_verified) return DataLoss("the ledger of {} does not verify", site.name);
  }
  return OkStatus();
}

}  // namespace

void RegisterPocVerb(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<PocFlags>();
  CLI::App* verb = AddVerb(app, "poc", "Run a whole federation on this machine", invocation,
                           [&invocation, flags] { return RunPoc(invocation, *flags); });
  verb->add_option("--dir", flags->options.dir, "Where the federation is made")->required();
  verb->add_option("--base", flags->options.base,
                   "HF folder of the base model; without it the job file's");
  verb->add_option("--site", flags->sites, "NAME=RECORDS[:HELDOUT], once for each site")
      ->required();
  verb->add_option("--hold", flags->hold,
                   "NAME of a site whose first update waits for `tidegate release`");
  verb->add_option("--job", flags->job,
                   "The job file, as for `tidegate job submit`; its name becomes poc");
  verb->add_option("--threads", flags->options.threads, "Of each trainer")->capture_default_str();
  verb->add_option("--dtype", flags->options.dtype, "auto, bf16 or f32")->capture_default_str();
  verb->add_option("--walls", flags->options.walls, "Walls demanded of each process");
  verb->add_option("--separate-uids", flags->options.separate_uids,
                   "[TRAINER, GATE, LINK]: a start as root, each process its own uid");
  verb->add_option("--timeout", flags->options.timeout_seconds, "Seconds for the whole job")
      ->capture_default_str();
}

}  // namespace tidegate::cli
