// preflight: what would keep a site, or a coordinator, from its work, before it is started. Looks
// and tries; changes nothing and opens no record.
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "base/limits.h"
#include "cli/machine.h"
#include "cli/verb.h"
#include "crypto/base_hash.h"
#include "crypto/keyfile.h"
#include "gate/policy.h"
#include "protocols/limits.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int kDialMillis = 5000;

struct Options {
  fs::path dir;
};

// The checks of one run, in the order they were made.
class Checks {
 public:
  void Good(const std::string& name, const std::string& what) { Add(name, "ok", what, ""); }
  void Bad(const std::string& name, const std::string& what, const std::string& remedy) {
    Add(name, "failed", what, remedy);
    failed_.push_back(name);
  }
  void Bad(const std::string& name, const Status& status, const std::string& remedy) {
    Bad(name, status.message(), remedy);
  }
  const ordered_json& list() const { return list_; }
  const std::vector<std::string>& failed() const { return failed_; }

 private:
  void Add(const std::string& name, const char* state, const std::string& what,
           const std::string& remedy) {
    list_.push_back({{"check", name}, {"state", state}, {"found", what}});
    if (!remedy.empty()) list_.back()["remedy"] = remedy;
  }
  ordered_json list_ = ordered_json::array();
  std::vector<std::string> failed_;
};

Result<toml::table> ReadToml(const fs::path& file) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kMaxConfigBytes));
  try {
    return toml::parse(text, file.native());
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", file.native(), e.source().begin.line,
                           std::string(e.description()));
  }
}

// As the programs read it: relative paths are from the folder.
fs::path PathIn(const fs::path& dir, const toml::table& config, const char* key) {
  const auto text = config[key].value<std::string>();
  return text ? dir / *text : fs::path();
}

// "tcp://host:port", with brackets around an IPv6 address.
Result<std::pair<std::string, std::string>> SplitAddress(const std::string& address) {
  const size_t scheme = address.find("://"), colon = address.rfind(':');
  if (scheme == std::string::npos || colon <= scheme + 2) {
    return InvalidArgument("{} is not SCHEME://HOST:PORT", address);
  }
  std::string host = address.substr(scheme + 3, colon - scheme - 3);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return std::pair(host, address.substr(colon + 1));
}

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

Result<AddressList> Resolve(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (code != 0) return Unavailable("{} does not resolve: {}", host, ::gai_strerror(code));
  return AddressList(found, ::freeaddrinfo);
}

// One TCP connection, closed again.
Status Dial(const std::string& address) {
  TG_ASSIGN_OR_RETURN(const auto place, SplitAddress(address));
  TG_ASSIGN_OR_RETURN(const AddressList found, Resolve(place.first, place.second));
  const Fd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus("make a socket for", address, errno);
  if (::connect(fd.get(), found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS) {
    return ErrnoStatus("connect to", address, errno);
  }
  pollfd p{fd.get(), POLLOUT, 0};
  if (::poll(&p, 1, kDialMillis) <= 0) {
    return DeadlineExceeded("{} does not answer within {} s", address, kDialMillis / 1000);
  }
  int error = 0;
  socklen_t size = sizeof(error);
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error == 0 ? OkStatus() : ErrnoStatus("connect to", address, error);
}

void CheckSpace(const fs::path& dir, uint64_t wanted, const char* for_what, Checks* checks) {
  std::error_code error;
  const fs::space_info space = fs::space(dir, error);
  if (error) return checks->Bad("disk", error.message(), "is the folder there?");
  const std::string found = fmt::format("{:.1f} GiB free for {}",
                                        static_cast<double>(space.available) / (1 << 30), for_what);
  if (space.available >= wanted) return checks->Good("disk", found);
  checks->Bad(
      "disk", found,
      fmt::format("make room: {:.1f} GiB may be needed", static_cast<double>(wanted) / (1 << 30)));
}

void CheckKey(const fs::path& file, Checks* checks) {
  const std::string name = "key " + file.filename().native();
  const bool curve = file.filename() == "link.key";
  const Status status = curve ? [&] {
    const auto key = crypto::ReadCurveKey(file);
    return key ? OkStatus() : key.error();
  }()
                              : [&] {
                                  const auto key = crypto::ReadSigningKey(file);
                                  return key ? OkStatus() : key.error();
                                }();
  if (status.ok()) return checks->Good(name, file.native());
  checks->Bad(name, status, "it is made by `tidegate site request` or `tidegate coordinator init`");
}

std::optional<gate::Policy> CheckPolicy(const fs::path& file, Checks* checks) {
  const char* remedy = "docs/formats/policy.md names every key";
  const auto text = ReadTextFile(file, gate::kMaxPolicyBytes);
  if (!text) {
    checks->Bad("policy", text.error(), remedy);
    return std::nullopt;
  }
  auto policy = gate::ParsePolicy(*text, file.native());
  if (!policy) {
    checks->Bad("policy", policy.error(), remedy);
    return std::nullopt;
  }
  checks->Good(
      "policy",
      fmt::format("{} jobs, {} bases, {}", policy->jobs.size(), policy->base_hashes.size(),
                  policy->hold == gate::Hold::kNever ? "nothing held" : "exports are held"));
  return std::move(*policy);
}

void CheckBase(const fs::path& base, const std::optional<gate::Policy>& policy, Checks* checks) {
  const auto hash = crypto::BaseHash(base);
  if (!hash) return checks->Bad("base", hash.error(), "`base` in site.toml is an HF folder");
  const std::string hex = ToHex(*hash);
  const bool named = policy && std::find(policy->base_hashes.begin(), policy->base_hashes.end(),
                                         *hash) != policy->base_hashes.end();
  if (!policy || named) return checks->Good("base", hex);
  checks->Bad("base", hex + " is not in the policy's jobs.base_hashes",
              "add it there, if this is the base that jobs are approved for");
}

// What the trainer will open: there, a file and not empty. Nothing of it is read here.
void CheckRecords(const char* name, const fs::path& file, Checks* checks) {
  struct ::stat info {};
  if (::stat(file.c_str(), &info) != 0) {
    return checks->Bad(name, ErrnoStatus("look at", file.native(), errno),
                       fmt::format("`{}` in site.toml is a JSONL file", name));
  }
  if (!S_ISREG(info.st_mode) || info.st_size == 0 || ::access(file.c_str(), R_OK) != 0) {
    return checks->Bad(name, file.native() + " is no file that can be read, or is empty",
                       "`tidegate data check` looks at the records themselves");
  }
  checks->Good(name, fmt::format("{}, {} bytes", file.native(), info.st_size));
}

Status CheckWalls(const std::optional<gate::Policy>& policy, Checks* checks) {
  TG_ASSIGN_OR_RETURN(const ordered_json roles, ProbeWalls());
  for (const auto& role : roles) {
    const std::string name = "walls of " + role["role"].get<std::string>();
    if (role.contains("error")) {
      checks->Bad(name, role["error"].get<std::string>(), "`tidegate doctor` shows more");
      continue;
    }
    std::string lacking, up;
    for (const auto& wall : role["walls"]) {
      const std::string wall_name = wall["name"];
      const bool stands = wall["state"] == "up";
      const bool demanded = policy ? std::find(policy->walls.begin(), policy->walls.end(),
                                               wall_name) != policy->walls.end()
                                   : wall["demanded"].get<bool>();
      if (stands) up += (up.empty() ? "" : " ") + wall_name;
      if (!stands && demanded) lacking += (lacking.empty() ? "" : ", ") + wall_name;
    }
    if (lacking.empty()) {
      checks->Good(name, up);
    } else {
      checks->Bad(name, lacking + " cannot be raised here and policy demands it",
                  "`tidegate doctor` says why and what to do");
    }
  }
  return OkStatus();
}

Status CheckSite(const fs::path& dir, Checks* checks) {
  const auto config = ReadToml(dir / "site.toml");
  if (!config) {
    checks->Bad("site.toml", config.error(), "docs/formats/site.md names every key");
    return OkStatus();
  }
  checks->Good("site.toml", (*config)["name"].value_or(std::string("it has no name")));
  CheckKey(dir / "keys" / "gate.key", checks);
  CheckKey(dir / "keys" / "link.key", checks);
  const auto policy = CheckPolicy(dir / "policy.toml", checks);
  CheckBase(PathIn(dir, *config, "base"), policy, checks);
  CheckRecords("records", PathIn(dir, *config, "records"), checks);
  if (config->contains("heldout")) {
    CheckRecords("heldout", PathIn(dir, *config, "heldout"), checks);
  }
  const auto spool = (*config)["max_spool_bytes"].value<int64_t>();
  CheckSpace(dir, spool ? static_cast<uint64_t>(*spool) : protocols::kMaxSpoolBytes / 8,
             "sealed updates, adapters and states", checks);
  const std::string proxy = (*config)["proxy"].value_or(std::string());
  const std::string address =
      proxy.empty() ? (*config)["coordinator"].value_or(std::string()) : proxy;
  const char* name = proxy.empty() ? "coordinator" : "proxy";
  const Status dialled = Dial(address);
  if (dialled.ok()) {
    checks->Good(name, address + " takes a connection");
  } else {
    checks->Bad(name, dialled, "is it up, and does the firewall let this machine dial it?");
  }
  return CheckWalls(policy, checks);
}

// Whether the coordinator could listen there: nobody else does.
void CheckListen(const std::string& address, Checks* checks) {
  const auto place = SplitAddress(address);
  const auto found = place ? Resolve(place->first == "*" ? "0.0.0.0" : place->first, place->second)
                           : Result<AddressList>(Unexpected(place.error()));
  if (!found) return checks->Bad("listen", found.error(), "`listen` is tcp://HOST:PORT");
  const Fd fd(::socket((*found)->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(fd.get(), (*found)->ai_addr, (*found)->ai_addrlen) != 0) {
    return checks->Bad("listen", ErrnoStatus("listen at", address, errno),
                       "another program has the port, or the address is not this machine's; a "
                       "coordinator that runs already has it too");
  }
  checks->Good("listen", address + " is free");
}

Status CheckCoordinator(const fs::path& dir, Checks* checks) {
  const auto config = ReadToml(dir / "coordinator.toml");
  if (!config) {
    checks->Bad("coordinator.toml", config.error(), "`tidegate coordinator init` makes one");
    return OkStatus();
  }
  checks->Good("coordinator.toml", (*config)["name"].value_or(std::string("it has no name")));
  CheckKey(dir / "keys" / "sign.key", checks);
  CheckKey(dir / "keys" / "link.key", checks);
  const std::string address = (*config)["address"].value_or(std::string());
  CheckListen((*config)["listen"].value_or(address), checks);
  const auto quota = (*config)["block_store_gib"].value<int64_t>();
  CheckSpace(dir, (quota ? static_cast<uint64_t>(*quota) : 1) << 30, "blocks and the store",
             checks);
  const auto zmq = FindZmq();
  if (zmq && zmq->curve) {
    checks->Good("libzmq", zmq->version + " with CURVE");
  } else {
    checks->Bad("libzmq", zmq ? "it has no CURVE" : zmq.error().message(),
                "install Debian's libzmq5, which has libsodium");
  }
  return OkStatus();
}

std::string Text(const ordered_json& report) {
  std::string out;
  for (const auto& check : report["checks"]) {
    const bool ok = check["state"] == "ok";
    out += fmt::format("{:<7} {:<18} {}\n", ok ? "ok" : "FAILED", check["check"].get<std::string>(),
                       check["found"].get<std::string>());
    if (!ok) out += fmt::format("{:<26} {}\n", "", check["remedy"].get<std::string>());
  }
  return out;
}

Status Run(const Invocation& invocation, const Options& options) {
  Checks checks;
  std::error_code error;
  const bool site = fs::exists(options.dir / "site.toml", error);
  const bool coordinator = fs::exists(options.dir / "coordinator.toml", error);
  if (!site && !coordinator) {
    return NotFound(
        "{} has neither site.toml nor coordinator.toml; it is no folder of a site or a "
        "coordinator",
        options.dir.native());
  }
  TG_RETURN_IF_ERROR(site ? CheckSite(options.dir, &checks)
                          : CheckCoordinator(options.dir, &checks));
  const ordered_json report = {
      {"dir", options.dir.native()}, {"ready", checks.failed().empty()}, {"checks", checks.list()}};
  TG_RETURN_IF_ERROR(Print(invocation, report, Text));
  if (checks.failed().empty()) return OkStatus();
  std::string names;
  for (const std::string& name : checks.failed()) names += (names.empty() ? "" : ", ") + name;
  return FailedPrecondition("not ready: {}", names);
}

}  // namespace

void RegisterPreflightVerb(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      AddVerb(app, "preflight", "Try what a site or a coordinator needs, before it starts",
              invocation, [&invocation, options] { return Run(invocation, *options); });
  verb->add_option("--dir", options->dir, "SITE or COORD")->required();
}

}  // namespace tidegate::cli
