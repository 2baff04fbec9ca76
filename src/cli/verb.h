// The verbs of `tidegate`: one file a verb, each with one function that registers it.
//
// A verb adds a subcommand with AddVerb and gives the function that does the work. Results go to
// standard output as text or, with --format json, as one JSON document; errors go to standard
// error in the same format. The exit code is the number of the error's code (docs/exit-codes.md).
// Not thread-safe.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "base/status.h"

namespace tidegate::cli {

// `ledger verify` without a head from elsewhere: consistent by itself, which is not verified.
inline constexpr int kExitConsistentOnly = 65;

enum class Format : uint8_t { kText = 0, kJson = 1 };

// What the parsed command line asks for.
struct Invocation {
  std::string verb;  // "base inspect"
  Format format = Format::kText;
  std::function<Status()> run;
  int exit_code = 0;  // of a run that ends with OK
};

// Adds the subcommand `name` to `parent` with --format. `run` is called after parsing, if the user
// chose this verb; it reads its options from what the caller bound them to.
CLI::App* AddVerb(CLI::App& parent, const std::string& name, const std::string& help,
                  Invocation& invocation, std::function<Status()> run);

// "data check": the verb with the groups it is in.
std::string FullName(const CLI::App* verb);

// Adds a subcommand that only groups others, such as `base`.
CLI::App* AddGroup(CLI::App& parent, const std::string& name, const std::string& help);

// Writes `json`, or the text that `text` makes of it, to standard output. kUnavailable when
// standard output is closed or full.
Status Print(const Invocation& invocation, const nlohmann::ordered_json& json,
             const std::function<std::string(const nlohmann::ordered_json&)>& text);

// Parses and runs; returns the exit code.
int RunMain(CLI::App& app, Invocation& invocation, int argc, const char* const* argv);

// One function a verb, in src/cli/verb_<name>.cc.
void RegisterTrainerVerbs(CLI::App& app, Invocation& invocation);
void RegisterBaseVerb(CLI::App& app, Invocation& invocation);
void RegisterBasePublish(CLI::App& group, Invocation& invocation);  // within `base`
void RegisterBasePull(CLI::App& group, Invocation& invocation);     // within `base`
void RegisterAdapterVerb(CLI::App& app, Invocation& invocation);
void RegisterAdapterExport(CLI::App& group, Invocation& invocation);  // within `adapter`
void RegisterDoctorVerb(CLI::App& app, Invocation& invocation);
void RegisterCoordinatorVerb(CLI::App& app, Invocation& invocation);
void RegisterSiteVerb(CLI::App& app, Invocation& invocation);
void RegisterSiteDaemonVerbs(CLI::App& app, Invocation& invocation);
void RegisterSitePeopleVerbs(CLI::App& app, Invocation& invocation);
void RegisterJobVerb(CLI::App& app, Invocation& invocation);
void RegisterStatusVerb(CLI::App& app, Invocation& invocation);
void RegisterLedgerVerb(CLI::App& app, Invocation& invocation);
void RegisterApprovalVerbs(CLI::App& app, Invocation& invocation);
void RegisterPocVerb(CLI::App& app, Invocation& invocation);
void RegisterPreflightVerb(CLI::App& app, Invocation& invocation);
void RegisterTokenizerVerbs(CLI::App& app, Invocation& invocation);

}  // namespace tidegate::cli
