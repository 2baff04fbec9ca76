// status: what a coordinator does now.
#include <filesystem>

#include "cli/coordinator_client.h"
#include "cli/verb.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

std::string Text(const ordered_json& report) {
  const auto& federation = report["federation"];
  std::string out =
      fmt::format("federation  {} at {}\nkey         {}\nblocks      {:.1f} MiB\n",
                  federation["name"].get<std::string>(), federation["address"].get<std::string>(),
                  federation["fingerprint"].get<std::string>(),
                  static_cast<double>(report["block_bytes"].get<uint64_t>()) / (1024.0 * 1024.0));
  if (report["equivocations"].get<uint64_t>() > 0) {
    out += fmt::format("WARNING     {} updates were offered twice with other content\n",
                       report["equivocations"].get<uint64_t>());
  }
  out += "\nSITE                 CONNECTED  BYTES IN\n";
  for (const auto& site : report["sites"]) {
    out +=
        fmt::format("{:<20} {:<10} {}\n", site["name"].get<std::string>(),
                    site["connected"].get<bool>() ? "yes" : "no", site["bytes_in"].get<uint64_t>());
  }
  out += "\nJOB                  STATE        VERSION    IN\n";
  for (const auto& job : report["jobs"]) {
    const auto& round = job["open_round"];
    const size_t in = round.is_object() ? round["accepted"].size() : 0;
    out += fmt::format("{:<20} {:<12} {}/{:<8} {}/{}\n", job["name"].get<std::string>(),
                       job["state"].get<std::string>(), job["version"].get<uint32_t>(),
                       job["rounds"].get<uint32_t>(), in, job["sites"].size());
  }
  return out;
}

}  // namespace

void RegisterStatusVerb(CLI::App& app, Invocation& invocation) {
  auto dir = std::make_shared<std::filesystem::path>();
  CLI::App* verb = AddVerb(
      app, "status", "Sites, jobs and rounds of a coordinator", invocation,
      [&invocation, dir]() -> Status {
        TG_ASSIGN_OR_RETURN(const ordered_json report, AskCoordinator(*dir, {{"verb", "status"}}));
        return Print(invocation, report, Text);
      });
  verb->add_option("--dir", *dir, "The coordinator's folder")->required();
}

}  // namespace tidegate::cli
