#include "cli/poc.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "crypto/random.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kStartMillis = 20'000;
constexpr int kMaxRestarts = 200;
constexpr int kSiteEndMillis = 60'000;
constexpr const char* kWaiver =
    "tidegate poc: made-up records on one machine, no differential privacy is built yet";

int64_t Now() { return SystemClock().MonotonicMillis(); }

bool CanListen(uint16_t port) {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  return ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

// A TCP port that nobody has now. Below those that the kernel gives to outgoing connections: one of
// them could take the port while the coordinator is being started again.
Result<std::string> FreeAddress() {
  constexpr uint32_t kFirst = 10'000, kLast = 32'000, kTries = 100;
  for (uint32_t i = 0; i < kTries; ++i) {
    uint8_t random[4];
    TG_RETURN_IF_ERROR(crypto::FillRandom(random));
    const auto port = static_cast<uint16_t>(kFirst + LoadLe32(random) % (kLast - kFirst));
    if (CanListen(port)) return fmt::format("tcp://127.0.0.1:{}", port);
  }
  return ResourceExhausted("of {} TCP ports between {} and {} none was free", kTries, kFirst,
                           kLast);
}

std::string TailOf(const fs::path& log) {
  const auto text = ReadTextFile(log, 256u << 20);
  if (!text) return "";
  return text->substr(text->size() > 1500 ? text->size() - 1500 : 0);
}

}  // namespace

Poc::Poc(PocOptions options)
    : options_(std::move(options)), tidegate_((options_.programs / "tidegate").native()) {}

void Poc::Say(const std::string& line) {
  if (options_.progress == nullptr || line == last_line_) return;
  last_line_ = line;
  std::fprintf(options_.progress, "%s\n", line.c_str());
  std::fflush(options_.progress);
}

Result<json> Poc::Tool(std::vector<std::string> arguments, int timeout_millis) {
  arguments.insert(arguments.begin(), tidegate_);
  arguments.insert(arguments.end(), {"--format", "json"});
  TG_ASSIGN_OR_RETURN(const std::string text, RunCommandOk(arguments, timeout_millis));
  return ParseStrictJson(text, {64u << 20, 64}, arguments[1]);
}

Result<PocResult> Poc::Run() {
  TG_RETURN_IF_ERROR(Provision());
  TG_RETURN_IF_ERROR(Start());
  TG_RETURN_IF_ERROR(Submit());
  const int64_t deadline = Now() + static_cast<int64_t>(options_.timeout_seconds) * 1000;
  for (;;) {
    TG_ASSIGN_OR_RETURN(const bool ended, Step());
    if (ended) break;
    if (Now() > deadline) {
      return DeadlineExceeded("the job did not end within {} s; the logs are in {}",
                              options_.timeout_seconds, options_.dir.native());
    }
  }
  TG_ASSIGN_OR_RETURN(PocResult result, Collect());
  TG_RETURN_IF_ERROR(Stop());
  return result;
}

Status Poc::Provision() {
  if (options_.sites.empty()) return InvalidArgument("a federation needs a site; give --site");
  std::error_code error;
  if (fs::exists(coordinator_dir(), error)) {
    return AlreadyExists("{} holds a federation; give another --dir or remove it",
                         options_.dir.native());
  }
  fs::create_directories(options_.dir, error);
  if (error) return ErrnoStatus("create", options_.dir.native(), error.value());
  options_.dir = fs::canonical(options_.dir, error);
  options_.base = fs::canonical(options_.base, error);
  if (error) return NotFound("--base {} does not exist", options_.base.native());
  TG_ASSIGN_OR_RETURN(const std::string address, FreeAddress());
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const json made,
                      Tool({"coordinator", "init", "--dir", coordinator_dir().native(), "--name",
                            "poc", "--address", address}));
  for (const PocSite& site : options_.sites) TG_RETURN_IF_ERROR(ProvisionSite(site));
  return OkStatus();
}

Status Poc::ProvisionSite(const PocSite& site) {
  const fs::path dir = options_.dir / site.name;
  TG_ASSIGN_OR_RETURN(const json request,
                      Tool({"site", "request", "--name", site.name, "--dir", dir.native()}));
  TG_ASSIGN_OR_RETURN(const json approval,
                      Tool({"site", "approve", request.at("request").get<std::string>(), "--dir",
                            coordinator_dir().native()}));
  std::error_code error;
  std::vector<std::string> accept = {"site",
                                     "accept",
                                     approval.at("approval").get<std::string>(),
                                     "--dir",
                                     dir.native(),
                                     "--base",
                                     options_.base.native(),
                                     "--records",
                                     fs::absolute(site.records, error).native(),
                                     "--allow_job",
                                     "poc",
                                     "--waiver",
                                     kWaiver};
  if (!site.heldout.empty()) {
    accept.insert(accept.end(), {"--heldout", fs::absolute(site.heldout, error).native()});
  }
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const json accepted, Tool(accept));
  // What the starter file leaves at its defaults.
  TG_ASSIGN_OR_RETURN(std::string config, ReadTextFile(dir / "site.toml", 1 << 20));
  const auto set = [&config](const std::string& key, const std::string& value) {
    std::string kept;
    for (size_t at = 0; at < config.size();) {
      const size_t end = std::min(config.find('\n', at), config.size());
      const std::string line = config.substr(at, end - at);
      if (!line.starts_with(key + " ") && !line.starts_with(key + "=")) kept += line + "\n";
      at = end + 1;
    }
    config = kept + key + " = " + value + "\n";
  };
  set("threads", std::to_string(options_.threads));
  set("dtype", "\"" + options_.dtype + "\"");
  if (!options_.separate_uids.empty()) set("separate_uids", options_.separate_uids);
  if (!options_.walls.empty()) set("walls", "\"" + options_.walls + "\"");
  TG_RETURN_IF_ERROR(WriteFileDurably(dir / "site.toml", AsBytes(config), 0600));
  if (site.hold) TG_RETURN_IF_ERROR(HoldFirstExport(dir));
  Say(fmt::format("site {} is enrolled", site.name));
  return OkStatus();
}

Status Poc::HoldFirstExport(const fs::path& dir) {
  const fs::path key = dir / "approver.key";
  TG_ASSIGN_OR_RETURN(const json approver, Tool({"approver", "init", "--out", key.native()}));
  TG_ASSIGN_OR_RETURN(std::string policy, ReadTextFile(dir / "policy.toml", 1 << 20));
  policy += fmt::format(
      "\n[approval]\nhold = \"first\"\nneeded = 1\napprovers = {{ operator = \"{}\" }}\n",
      approver.at("key").get<std::string>());
  return WriteFileDurably(dir / "policy.toml", AsBytes(policy), 0600);
}

void Poc::SayHeld() {
  for (size_t i = 0; i < options_.sites.size(); ++i) {
    if (!options_.sites[i].hold || told_held_.contains(i)) continue;
    std::error_code error;
    for (fs::directory_iterator it(site_dir(i) / "gate" / "held", error), end; !error && it != end;
         it.increment(error)) {
      if (it->path().extension() != ".json") continue;
      told_held_.insert(i);
      const std::string name = it->path().stem().native(), dir = site_dir(i).native();
      Say(
          fmt::format("{} holds its first update until a person releases it:\n"
                      "  tidegate review {} --dir {}\n"
                      "  tidegate release {} --dir {} --key {}/approver.key --approver operator "
                      "--reason \"why\"",
                      options_.sites[i].name, name, dir, name, dir, dir));
      break;
    }
  }
}

Status Poc::StartCoordinator() {
  TG_ASSIGN_OR_RETURN(coordinator_,
                      ChildProcess::Start({(options_.programs / "tidegate-coordinator").native(),
                                           "--dir", coordinator_dir().native()},
                                          coordinator_log()));
  return OkStatus();
}

Status Poc::StartSite(size_t site) {
  TG_ASSIGN_OR_RETURN(onshore_[site],
                      ChildProcess::Start({(options_.programs / "tidegate-onshore").native(),
                                           "--dir", site_dir(site).native(), "--once"},
                                          site_log(site)));
  away_[site] = false;
  return OkStatus();
}

pid_t Poc::child_pid(size_t site, std::string_view process) const {
  const pid_t parent = onshore_[site].pid();
  std::ifstream list(fmt::format("/proc/{}/task/{}/children", parent, parent));
  // The kernel cuts names after 15 characters.
  const std::string wanted = fmt::format("tidegate-{}", process).substr(0, 15);
  for (pid_t pid = 0; list >> pid;) {
    std::string name;
    std::getline(std::ifstream(fmt::format("/proc/{}/comm", pid)), name);
    if (name == wanted) return pid;
  }
  return -1;
}

Status Poc::Start() {
  started_millis_ = Now();
  TG_RETURN_IF_ERROR(StartCoordinator());
  const int64_t deadline = Now() + kStartMillis;
  for (;;) {
    // A verb that finds nobody listening would take the folder from a coordinator that starts.
    std::error_code error;
    if (fs::exists(coordinator_dir() / "admin.sock", error)) {
      const auto status = Tool({"status", "--dir", coordinator_dir().native()}, kStartMillis);
      if (status && status->contains("federation")) {
        key_ = status->at("federation").at("key").get<std::string>();
        break;
      }
    }
    if (coordinator_.Wait(20) || Now() > deadline) {
      return Unavailable("the coordinator did not start: {}", TailOf(coordinator_log()));
    }
  }
  onshore_.resize(options_.sites.size());
  done_.assign(options_.sites.size(), false);
  away_.assign(options_.sites.size(), true);
  for (size_t i = 0; i < options_.sites.size(); ++i) {
    if (!options_.sites[i].away) TG_RETURN_IF_ERROR(StartSite(i));
  }
  return OkStatus();
}

Status Poc::Submit() {
  const fs::path file = options_.dir / "poc.toml";
  std::string text = fmt::format("name = \"poc\"\nbase = \"{}\"\n", options_.base.native());
  text += options_.job_toml;
  TG_RETURN_IF_ERROR(WriteFileDurably(file, AsBytes(text)));
  TG_ASSIGN_OR_RETURN(const json job,
                      Tool({"job", "submit", file.native(), "--dir", coordinator_dir().native()}));
  job_ = job.at("id").get<std::string>();
  rounds_ = job.at("rounds").get<int64_t>();
  Say(fmt::format("job {} is submitted: {} rounds at {} sites", job_, rounds_,
                  options_.sites.size()));
  return OkStatus();
}

// Whether a program that ended so is started again: it was killed, or could not yet do its work.
Status Poc::MayRestart(const std::string& name, int code, const fs::path& log) {
  if (code < 128 && code != static_cast<int>(Code::kUnavailable)) {
    const bool known = code > 0 && code <= static_cast<int>(Code::kInternal);
    return MakeError(known ? static_cast<Code>(code) : Code::kInternal, "{} ended with {}: {}",
                     name, code, TailOf(log));
  }
  if (++restarts_ > kMaxRestarts) {
    return Unavailable("{} does not stay up: {}", name, TailOf(log));
  }
  Say(fmt::format("{} ended with {}, it is started again", name, code));
  return OkStatus();
}

Status Poc::RestartDead() {
  if (const auto code = coordinator_.Wait(0)) {
    TG_RETURN_IF_ERROR(MayRestart("the coordinator", *code, coordinator_log()));
    TG_RETURN_IF_ERROR(StartCoordinator());
  }
  for (size_t i = 0; i < onshore_.size(); ++i) {
    if (done_[i] || away_[i]) continue;
    const auto code = onshore_[i].Wait(0);
    if (!code) continue;
    if (*code == 0) {
      done_[i] = true;
      continue;
    }
    TG_RETURN_IF_ERROR(MayRestart("site " + options_.sites[i].name, *code, site_log(i)));
    TG_RETURN_IF_ERROR(StartSite(i));
  }
  return OkStatus();
}

Result<bool> Poc::Step() {
  TG_RETURN_IF_ERROR(RestartDead());
  SayHeld();
  const auto job = Tool({"job", "show", job_, "--dir", coordinator_dir().native()});
  if (!job) {
    // A coordinator that was just killed is started again by the next step.
    coordinator_.Wait(200);
    return false;
  }
  const auto version = job->at("version").get<int64_t>();
  const double seconds = static_cast<double>(Now() - started_millis_) / 1000.0;
  std::string line = fmt::format("round {}/{}", std::min(version + 1, rounds_), rounds_);
  if (version > 0 && version < rounds_) {
    line += fmt::format("  ETA {:.0f} s", seconds / static_cast<double>(version) *
                                              static_cast<double>(rounds_ - version));
  }
  const std::string state = job->at("state").get<std::string>();
  if (job->at("ended").get<bool>()) {
    if (state != "finished")
      return Cancelled("the job ended as \"{}\" at version {}", state, version);
    Say(fmt::format("all {} rounds are done after {:.1f} s", rounds_, seconds));
    return true;
  }
  if (version != shown_version_) Say(line);
  shown_version_ = version;
  coordinator_.Wait(150);
  return false;
}

Result<PocSiteResult> Poc::CollectSite(size_t site) {
  const int64_t deadline = Now() + kSiteEndMillis;
  while (!done_[site]) {
    TG_RETURN_IF_ERROR(RestartDead());
    if (Now() > deadline) {
      return DeadlineExceeded("site {} did not end: {}", options_.sites[site].name,
                              TailOf(site_log(site)));
    }
    coordinator_.Wait(50);
  }
  PocSiteResult out;
  out.name = options_.sites[site].name;
  out.dir = site_dir(site);
  out.ledger = out.dir / "gate" / "ledger";
  out.key = key_;
  std::error_code error;
  for (fs::directory_iterator it(out.dir / "gate" / "receipts", error), end; !error && it != end;
       it.increment(error)) {
    // Names end in ROUND-PHASE: the last round's receipt has the newest head.
    const auto round_of = [](const fs::path& path) {
      const std::string name = path.stem().string();
      const size_t dash = name.rfind('-');
      return std::atoll(name.c_str() + name.rfind('-', dash - 1) + 1);
    };
    if (out.receipt.empty() || round_of(it->path()) > round_of(out.receipt)) {
      out.receipt = it->path();
    }
  }
  if (out.receipt.empty()) return NotFound("site {} has no receipt", out.name);
  const auto verified = Tool(
      {"ledger", "verify", out.ledger.native(), "--head", out.receipt.native(), "--key", key_});
  out.ledger_verified = verified.has_value();
  if (verified) {
    out.exports = verified->at("exports").get<int64_t>();
    out.bytes_out = verified->at("export_bytes").get<int64_t>();
  } else {
    Say(verified.error().ToString());
  }
  TG_ASSIGN_OR_RETURN(out.ledger_text,
                      RunCommandOk({tidegate_, "ledger", "show", out.ledger.native()}, 60'000));
  return out;
}

Result<PocResult> Poc::Collect() {
  PocResult result;
  result.job = job_;
  result.rounds = rounds_;
  for (size_t i = 0; i < options_.sites.size(); ++i) {
    TG_ASSIGN_OR_RETURN(PocSiteResult site, CollectSite(i));
    result.sites.push_back(std::move(site));
  }
  result.adapter = options_.dir / "adapter";
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const json exported,
                      Tool({"job", "export", job_, "--out", result.adapter.native(), "--dir",
                            coordinator_dir().native()}));
  result.seconds = static_cast<double>(Now() - started_millis_) / 1000.0;
  return result;
}

Status Poc::Stop() {
  for (ChildProcess& site : onshore_) site.Signal(SIGTERM);
  coordinator_.Signal(SIGTERM);
  for (ChildProcess& site : onshore_) site.Wait(10'000);
  coordinator_.Wait(10'000);
  return OkStatus();
}

}  // namespace tidegate::cli
