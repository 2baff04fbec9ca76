// poc: a whole federation on this machine, as real processes.
#include "base/file.h"
#include "cli/poc.h"
#include "cli/verb.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

struct PocFlags {
  PocOptions options;
  std::vector<std::string> sites;  // NAME=RECORDS[:HELDOUT]
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
  if (!flags.job.empty()) {
    TG_ASSIGN_OR_RETURN(flags.options.job_toml, ReadTextFile(flags.job, 1 << 20));
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
  verb->add_option("--base", flags->options.base, "HF folder of the base model")->required();
  verb->add_option("--site", flags->sites, "NAME=RECORDS[:HELDOUT], once for each site")
      ->required();
  verb->add_option("--job", flags->job, "Job file without name, base and sites (docs: job.md)");
  verb->add_option("--threads", flags->options.threads, "Of each trainer")->capture_default_str();
  verb->add_option("--dtype", flags->options.dtype, "auto, bf16 or f32")->capture_default_str();
  verb->add_option("--walls", flags->options.walls, "Walls demanded of each process");
  verb->add_option("--separate-uids", flags->options.separate_uids,
                   "[TRAINER, GATE, LINK]: a start as root, each process its own uid");
  verb->add_option("--timeout", flags->options.timeout_seconds, "Seconds for the whole job")
      ->capture_default_str();
}

}  // namespace tidegate::cli
