#include "onshore/trainer/verb.h"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>

#include "base/site_name.h"
#include "finetune/config.h"
#include "kernels/table.h"
#include "onshore/start/start.h"
#include "onshore/trainer/launch.h"

namespace tidegate::trainer {
namespace {

volatile std::sig_atomic_t g_stop = 0;  // the signal

// What ends the run is not forgotten for an interrupt.
void NoteStop(int signal) {
  if (g_stop == 0 || g_stop == SIGINT) g_stop = signal;
}

void WriteError(const Invocation& invocation, const Status& status) {
  std::string line;
  if (invocation.json) {
    nlohmann::ordered_json json;
    json["error"] = {{"code", CodeName(status.code())}, {"message", status.message()}};
    line = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  } else {
    line = fmt::format("tidegate {}: {}", invocation.verb, status.ToString());
  }
  std::fprintf(stderr, "%s\n", line.c_str());
  std::fflush(stderr);
}

int Finish(const Invocation& invocation, const Status& status) {
  if (!status.ok()) WriteError(invocation, status);
  std::fflush(stdout);
  return static_cast<int>(status.code());
}

// Everything a library can throw stops here: std::bad_alloc is a limit, not a crash.
Status RunGuarded(const Invocation& invocation, const std::string& raised) {
  try {
    return invocation.run(raised);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(
        "out of memory; try --dtype bf16, a smaller --max_length or a smaller batch");
  } catch (const kernels::DeviceError& e) {
    return Unavailable("{}", e.what());
  } catch (const std::exception& e) {
    return Internal("{}", e.what());
  }
}

}  // namespace

CLI::App* AddVerb(CLI::App& app, const std::string& name, const std::string& help,
                  Invocation& invocation, std::function<Status()> prepare,
                  std::function<Status(const std::string&)> run,
                  std::function<void(const CLI::App& verb)> usage) {
  CLI::App* verb = app.add_subcommand(name, help);
  verb->add_option_function<std::string>(
          "--format", [&invocation](const std::string& text) { invocation.json = text == "json"; },
          "Of results and errors: text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->option_text("text|json");
  verb->add_option("--walls", invocation.walls.demanded,
                   "Process walls that must stand before a record is opened, or none")
      ->capture_default_str();
  verb->callback([&invocation, name, verb, prepare = std::move(prepare), run = std::move(run),
                  usage = std::move(usage)] {
    if (usage) usage(*verb);
    invocation.verb = name == "data-check" ? "data check" : name;
    invocation.prepare = prepare;
    invocation.run = run;
  });
  return verb;
}

std::string Flag(const std::string& name) {
  std::string dashed = name;
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  return dashed == name ? "--" + name : "--" + name + ",--" + dashed;
}

void RefuseGiven(const CLI::App& verb, const std::vector<std::string>& flags,
                 const std::string& why) {
  for (const std::string& flag : flags) {
    if (verb.get_option("--" + flag)->count() > 0) {
      throw CLI::ExcludesError("--" + flag + " " + why, CLI::ExitCodes::ExcludesError);
    }
  }
}

void CheckHeldWeights(const CLI::App& verb, const finetune::HeldWeights& held) {
  if (held.load_in_4bit) return;
  RefuseGiven(verb, {"bnb_4bit_use_double_quant"}, "is for --load_in_4bit: give that too");
}

void AddSeed(CLI::App& verb, uint64_t& seed, const std::string& help) {
  const auto whole = [](const std::string& text) -> std::string {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size()) return "";
    return text + " must be a whole number from 0 to 18446744073709551615";
  };
  verb.add_option("--seed", seed, help)->check(CLI::Validator(whole, ""))->capture_default_str();
}

void AddSwitch(CLI::App& verb, const std::string& name, bool& value, const std::string& help) {
  verb.add_option(Flag(name), value, help)
      ->expected(0, 1)
      ->default_str("true")  // what the flag by itself stands for
      ->option_text(value ? "[true|false]=true" : "[true|false]=false");
}

void AddDevice(CLI::App& verb, std::string& device) {
  verb.add_option("--device", device, "cpu, or cuda for a GPU")->capture_default_str();
}

Status UseDevice(Invocation& invocation, const std::string& device) {
  invocation.walls.gpu = device == "cuda";
  return finetune::CheckDevice(device);
}

void AddHeldWeights(CLI::App& verb, finetune::HeldWeights& held) {
  AddSwitch(verb, "load_in_8bit", held.load_in_8bit, "Hold the base's linear layers in int8");
  AddSwitch(verb, "load_in_4bit", held.load_in_4bit, "Hold the base's linear layers in NF4");
  AddSwitch(verb, "bnb_4bit_use_double_quant", held.bnb_4bit_use_double_quant,
            "With --load_in_4bit: the scales in 8 bits too");
}

void AddSupervisedFlags(CLI::App& verb, Invocation& invocation, FlagsFileRules rules) {
  rules.excluded.insert({"config", "format", "walls", "site", "uid", "flags_fd", "device"});
  CLI::Option* site = verb.add_option("--site", invocation.site, "")->group("");
  verb.add_option("--uid", invocation.walls.uid, "")->group("")->needs(site);
  verb.add_option_function<int>("--flags_fd",
                                [&verb, &invocation, rules = std::move(rules)](int descriptor) {
                                  invocation.verb = verb.get_name();
                                  invocation.refused =
                                      ApplyFlagsDescriptor(verb, descriptor, invocation.site, rules,
                                                           invocation.walls.uid);
                                })
      ->group("")
      ->needs(site);
}

Status MakeOutputDir(const Invocation& invocation, const std::filesystem::path& dir) {
  std::error_code error;
  if (invocation.site.empty()) {
    std::filesystem::create_directories(dir, error);
    return error ? ErrnoStatus("create", dir.native(), error.value()) : OkStatus();
  }
  const std::filesystem::path local = invocation.site / "local";
  const std::filesystem::path normal = dir.lexically_normal();
  if (normal.parent_path() != local || !IsSiteName(normal.filename().native())) {
    return PermissionDenied(
        "a client of the site writes into {}/NAME, not into {}; NAME must be {}", local.native(),
        dir.native(), kSiteNameRule);
  }
  std::filesystem::create_directories(normal, error);
  if (error) return ErrnoStatus("create", normal.native(), error.value());
  if (invocation.walls.uid != 0) return onshore::Own(normal, invocation.walls.uid);
  std::filesystem::permissions(normal, std::filesystem::perms::owner_all, error);
  return error ? ErrnoStatus("chmod", normal.native(), error.value()) : OkStatus();
}

Status AllowRead(Invocation& invocation, const std::string& option,
                 const std::filesystem::path& path) {
  if (const auto inherited = InheritedDescriptor(path)) {
    invocation.walls.kept_files.push_back(*inherited);
    return OkStatus();
  }
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return NotFound("--{} {} does not exist", option, path.native());
  }
  invocation.walls.read_only.push_back(path);
  return OkStatus();
}

Status Print(const Invocation& invocation, const nlohmann::ordered_json& json,
             const std::string& text) {
  std::string out =
      invocation.json ? json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) : text;
  if (!out.ends_with('\n')) out += '\n';
  if (std::fwrite(out.data(), 1, out.size(), stdout) != out.size() || std::fflush(stdout) != 0) {
    return Unavailable("cannot write to standard output; check where it is redirected to");
  }
  return OkStatus();
}

void CatchStopSignals() {
  struct sigaction action {};
  action.sa_handler = NoteStop;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
}

bool StopAsked() { return g_stop != 0; }

bool TakeInterrupt() {
  if (g_stop != SIGINT) return false;
  g_stop = 0;
  return true;
}

int Refuse(const Invocation& invocation) { return Finish(invocation, invocation.refused); }

int RunInvocation(Invocation& invocation) {
  // A file beyond a limit is an error with a name, not the end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  if (!invocation.refused.ok()) return Refuse(invocation);
  if (!invocation.site.empty()) {
    invocation.walls.secrets = {invocation.site / "keys" / "gate.key",
                                invocation.site / "keys" / "link.key",
                                invocation.site / "policy.toml"};
  }
  Status status = CheckWallNames(invocation.walls.demanded);
  if (status.ok()) status = invocation.prepare();
  if (!status.ok()) return Finish(invocation, status);
  auto behind_walls = [&invocation](pid_t parent) {
    if (parent != 0) invocation.held.clear();
    const Result<std::string> raised = RaiseLocalWalls(invocation.walls, parent);
    return Finish(invocation, raised ? RunGuarded(invocation, *raised) : raised.error());
  };
  if (invocation.walls.none()) return behind_walls(0);
  const Result<int> code = RunInChild(behind_walls, invocation.reads_input);
  return code ? *code : Finish(invocation, code.error());
}

}  // namespace tidegate::trainer
