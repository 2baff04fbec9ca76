// tidegate-coordinator --dir COORD: runs a federation's rounds until a signal ends it.
// tidegate-coordinator --dir COORD --request JSON: one verb on the folder of a coordinator that
// does not run, as `tidegate` asks for it; the answer goes to standard output.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "base/json.h"
#include "base/log.h"
#include "base/program.h"
#include "offshore/admin_socket.h"
#include "offshore/coordinator.h"
#include "offshore/exchange.h"
#include "offshore/serve.h"

namespace tidegate::offshore {
namespace {

// What a start of the coordinator would do first, deadlines too, and then the folder.
Result<nlohmann::ordered_json> RunExchange(Coordinator& coordinator,
                                           const std::filesystem::path& folder) {
  const auto turn =
      [&coordinator](const std::function<Status()>& what) -> Result<std::vector<Outgoing>> {
    TG_RETURN_IF_ERROR(coordinator.BeginTurn());
    TG_RETURN_IF_ERROR(what());
    return coordinator.EndTurn();
  };
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto unsent,
                      turn([&coordinator] { return coordinator.Resume(); }));
  Status fatal;
  auto report = Exchange(
      coordinator, folder, turn, [](const Outgoing&) {}, &fatal);
  TG_RETURN_IF_ERROR(fatal);
  return report;
}

Result<nlohmann::ordered_json> RunRequest(const std::filesystem::path& dir,
                                          const std::string& request) {
  JsonLimits limits;
  limits.max_bytes = kMaxRequestBytes;
  TG_ASSIGN_OR_RETURN(const nlohmann::json json, ParseStrictJson(request, limits, "the request"));
  // The keys first: they refuse another user than the folder's, who would leave a lock behind that
  // the folder's user can not open.
  TG_ASSIGN_OR_RETURN(FederationKeys keys, LoadFederationKeys(dir));
  TG_ASSIGN_OR_RETURN(const DirLock lock, DirLock::Take(dir));
  TG_ASSIGN_OR_RETURN(FederationConfig config, LoadFederationConfig(dir));
  TG_ASSIGN_OR_RETURN(auto coordinator,
                      Coordinator::Open(dir, std::move(config), std::move(keys), SystemClock()));
  TG_ASSIGN_OR_RETURN(const auto folder, ExchangeFolderOf(json));
  if (folder) return RunExchange(*coordinator, *folder);
  TG_RETURN_IF_ERROR(coordinator->BeginTurn());
  Status fatal;
  auto answer = coordinator->OnRequest(json, &fatal);
  TG_RETURN_IF_ERROR(fatal);
  TG_ASSIGN_OR_RETURN(const auto unsent, coordinator->EndTurn());
  return answer;
}

int Main(int argc, char** argv) {
  CLI::App app("Runs the rounds of a federation until a signal ends it.", "tidegate-coordinator");
  std::string dir, request;
  app.add_option("--dir", dir, "the federation's folder (coordinator.toml, keys/)")->required();
  app.add_option("--request", request,
                 "one verb, as JSON, on the folder of a coordinator that does not run; what "
                 "`tidegate` uses");
  app.set_version_flag("--version", std::string("tidegate-coordinator ") + Version());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kExitUsage;
  }
  SetLogProcess("coordinator");
  if (!request.empty()) {
    const auto answer = RunRequest(dir, request);
    const std::string text = AnswerText(answer);
    const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
    return answer && written
               ? 0
               : static_cast<int>(answer ? Code::kUnavailable : answer.error().code());
  }
  const Status status = Serve(dir);
  if (!status.ok()) LogError("ended reason={}", status.ToString());
  return static_cast<int>(status.code());
}

}  // namespace
}  // namespace tidegate::offshore

int main(int argc, char** argv) { return tidegate::offshore::Main(argc, argv); }
