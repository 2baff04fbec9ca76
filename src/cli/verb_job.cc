// job submit | list | show | log | stop | export: asked of the coordinator. The base model's files
// are read here, so that a running coordinator is not held up by hashing gigabytes.
#include <toml++/toml.h>

#include <filesystem>

#include "base/file.h"
#include "base/limits.h"
#include "cli/coordinator_client.h"
#include "cli/verb.h"
#include "crypto/base_hash.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Options {
  fs::path dir, file, out;
  std::string job;
  int64_t version = -1;
  int64_t after = 0;
};

// The one key that this side needs; everything else is judged by the coordinator.
Result<std::string> BaseOf(const std::string& text, const fs::path& file) {
  try {
    const toml::table table = toml::parse(text, file.native());
    const auto base = table["base"].value_exact<std::string>();
    if (base && !base->empty()) return *base;
    return InvalidArgument("{}: base is missing; it is the path of an HF folder", file.native());
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", file.native(), e.source().begin.line,
                           std::string(e.description()));
  }
}

std::string JobText(const ordered_json& job) {
  std::string out = fmt::format(
      "job         {} ({})\nstate       {}\nversion     {} of {}\nparameters  {}\nbase        {}\n",
      job["name"].get<std::string>(), job["id"].get<std::string>(), job["state"].get<std::string>(),
      job["version"].get<uint32_t>(), job["rounds"].get<uint32_t>(),
      job["parameters"].get<uint64_t>(), job["base_hash"].get<std::string>());
  const auto& round = job["open_round"];
  if (round.is_object()) {
    out += fmt::format("round       {}, {} of {} updates in, until {}\n",
                       round["round"].get<uint32_t>(), round["accepted"].size(),
                       job["sites"].size(), round["deadline"].get<std::string>());
  }
  for (const auto& [site, losses] : job["losses"].items()) {
    out += fmt::format("  {:<20} round {}: loss {:.3f}, held out {:.3f}\n", site,
                       losses["round"].get<uint32_t>(), losses["train"].get<double>(),
                       losses["heldout"].get<double>());
  }
  return out;
}

std::string ListText(const ordered_json& list) {
  std::string out = "ID                                NAME                 STATE        VERSION\n";
  for (const auto& job : list) {
    out += fmt::format("{}  {:<20} {:<12} {}/{}\n", job["id"].get<std::string>(),
                       job["name"].get<std::string>(), job["state"].get<std::string>(),
                       job["version"].get<uint32_t>(), job["rounds"].get<uint32_t>());
  }
  return out;
}

Status Submit(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.file, kMaxConfigBytes));
  TG_ASSIGN_OR_RETURN(const std::string base_name, BaseOf(text, options.file));
  const fs::path base = options.file.parent_path() / base_name;
  TG_ASSIGN_OR_RETURN(const std::string config,
                      ReadTextFile(base / "config.json", kMaxConfigBytes));
  TG_ASSIGN_OR_RETURN(const Digest hash, crypto::BaseHash(base));
  ordered_json request;
  request["verb"] = "job_submit";
  request["file"] = options.file.native();
  request["text"] = text;
  request["model_config"] = config;
  request["base_hash"] = ToHex(hash);
  request["base_name"] = base_name;
  TG_ASSIGN_OR_RETURN(const ordered_json answer, AskCoordinator(options.dir, request));
  return Print(invocation, answer, JobText);
}

Status Ask(const Invocation& invocation, const Options& options, const char* verb) {
  TG_ASSIGN_OR_RETURN(const ordered_json answer,
                      AskCoordinator(options.dir, {{"verb", verb}, {"job", options.job}}));
  return Print(invocation, answer, answer.is_array() ? ListText : JobText);
}

std::string LogText(const ordered_json& answer) {
  std::string out;
  for (const auto& e : answer["events"]) {
    out += fmt::format("{:>6}  {:<20}  {:<12}", e["number"].get<int64_t>(),
                       e["time"].get<std::string>(), e["event"].get<std::string>());
    for (const char* key : {"round", "version", "site", "asked", "weight", "reason"}) {
      if (!e.contains(key)) continue;
      out += fmt::format(" {} {}", key,
                         e[key].is_string() ? e[key].get<std::string>() : e[key].dump());
    }
    out += "\n";
  }
  if (answer["more"].get<bool>()) {
    out += fmt::format("there is more: --after {}\n",
                       answer["events"].back()["number"].get<int64_t>());
  }
  return out;
}

Status Log(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(
      const ordered_json answer,
      AskCoordinator(options.dir,
                     {{"verb", "job_log"}, {"job", options.job}, {"after", options.after}}));
  return Print(invocation, answer, LogText);
}

Status Export(const Invocation& invocation, const Options& options) {
  std::error_code error;
  const fs::path out = fs::absolute(options.out, error);
  if (error) return ErrnoStatus("name", options.out.native(), error.value());
  ordered_json request = {{"verb", "job_export"}, {"job", options.job}, {"out", out.native()}};
  if (options.version >= 0) request["version"] = options.version;
  TG_ASSIGN_OR_RETURN(const ordered_json answer, AskCoordinator(options.dir, request));
  return Print(invocation, answer, [](const ordered_json& a) {
    return fmt::format("version {} written to {}\n", a["version"].get<uint32_t>(),
                       a["out"].get<std::string>());
  });
}

}  // namespace

void RegisterJobVerb(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "job", "Federated jobs (offshore)");
  auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* help, std::function<Status()> run) {
    CLI::App* verb = AddVerb(*group, name, help, invocation, std::move(run));
    verb->add_option("--dir", options->dir, "The coordinator's folder")->required();
    return verb;
  };
  add("submit", "Sign and open a job",
      [&invocation, options] { return Submit(invocation, *options); })
      ->add_option("FILE", options->file, "The job as TOML; only base has no default")
      ->required();
  add("list", "All jobs", [&invocation, options] { return Ask(invocation, *options, "job_list"); });
  const char* which = "Id, the beginning of one, or name";
  add("show", "One job", [&invocation, options] { return Ask(invocation, *options, "job_show"); })
      ->add_option("JOB", options->job, which)
      ->required();
  add("stop", "End a job; its last version stays",
      [&invocation, options] { return Ask(invocation, *options, "job_stop"); })
      ->add_option("JOB", options->job, which)
      ->required();
  CLI::App* log = add("log", "What happened to a job, oldest first",
                      [&invocation, options] { return Log(invocation, *options); });
  log->add_option("JOB", options->job, which)->required();
  log->add_option("--after", options->after, "Only what came after this number")
      ->check(CLI::NonNegativeNumber);
  CLI::App* exported = add("export", "Write the shared adapter as a PEFT folder",
                           [&invocation, options] { return Export(invocation, *options); });
  exported->add_option("JOB", options->job, which)->required();
  exported->add_option("--version", options->version, "Default: the newest")
      ->check(CLI::NonNegativeNumber);
  exported->add_option("--out", options->out, "Folder to write")->required();
}

}  // namespace tidegate::cli
