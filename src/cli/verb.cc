#include "cli/verb.h"

#include <cstdio>
#include <exception>
#include <new>

#include "base/program.h"

namespace tidegate::cli {
namespace {

void WriteError(const Invocation& invocation, const Status& status) {
  std::string line;
  if (invocation.format == Format::kJson) {
    nlohmann::ordered_json json;
    json["error"] = {{"code", CodeName(status.code())}, {"message", status.message()}};
    line = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  } else {
    line = fmt::format("tidegate {}: {}", invocation.verb, status.ToString());
  }
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), stderr);
}

// Everything a library can throw stops here: std::bad_alloc is a limit, not a crash.
Status RunGuarded(const Invocation& invocation) {
  try {
    return invocation.run();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("out of memory; free some, or use a smaller model");
  } catch (const std::exception& e) {
    return Internal("{}", e.what());
  }
}

}  // namespace

std::string FullName(const CLI::App* verb) {
  std::string name = verb->get_name();
  for (const CLI::App* up = verb->get_parent(); up != nullptr && up->get_parent() != nullptr;
       up = up->get_parent()) {
    name = up->get_name() + " " + name;
  }
  return name;
}

CLI::App* AddVerb(CLI::App& parent, const std::string& name, const std::string& help,
                  Invocation& invocation, std::function<Status()> run) {
  CLI::App* verb = parent.add_subcommand(name, help);
  verb->add_option_function<std::string>(
          "--format",
          [&invocation](const std::string& text) {
            invocation.format = text == "json" ? Format::kJson : Format::kText;
          },
          "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->option_text("text|json");
  verb->callback([verb, &invocation, run = std::move(run)] {
    invocation.verb = FullName(verb);
    invocation.run = run;
  });
  return verb;
}

CLI::App* AddGroup(CLI::App& parent, const std::string& name, const std::string& help) {
  const auto same = parent.get_subcommands([&](CLI::App* sub) { return sub->get_name() == name; });
  CLI::App* group = same.empty() ? parent.add_subcommand(name, help) : same.front();
  group->require_subcommand(1);
  return group;
}

Status Print(const Invocation& invocation, const nlohmann::ordered_json& json,
             const std::function<std::string(const nlohmann::ordered_json&)>& text) {
  std::string out = invocation.format == Format::kJson
                        ? json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace)
                        : text(json);
  if (!out.ends_with('\n')) out += '\n';
  if (std::fwrite(out.data(), 1, out.size(), stdout) != out.size() || std::fflush(stdout) != 0) {
    return Unavailable("cannot write to standard output; check where it is redirected to");
  }
  return OkStatus();
}

int RunMain(CLI::App& app, Invocation& invocation, int argc, const char* const* argv) {
  app.set_version_flag("--version", fmt::format("tidegate {}", Version()));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kExitUsage;
  }
  if (!invocation.run) return kExitUsage;
  const Status status = RunGuarded(invocation);
  if (status.ok()) return invocation.exit_code;
  WriteError(invocation, status);
  return static_cast<int>(status.code());
}

}  // namespace tidegate::cli
