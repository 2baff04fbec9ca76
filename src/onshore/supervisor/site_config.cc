#include "onshore/supervisor/site_config.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <csignal>

#include "base/file.h"
#include "base/limits.h"
#include "base/site_name.h"
#include "onshore/sandbox/address_pin.h"
#include "onshore/sandbox/walls.h"
#include "protocols/limits.h"

namespace tidegate::onshore {
namespace {

constexpr int kResolveMillis = 5000;

Error BadKey(const std::filesystem::path& file, const toml::key& key, std::string_view why) {
  return InvalidArgument("{} line {}: {} {}", file.native(), key.source().begin.line, key.str(),
                         why);
}

Status SetText(const std::filesystem::path& file, const toml::key& key, const toml::node& node,
               std::string* out) {
  const auto value = node.value_exact<std::string>();
  if (!value || value->empty()) return BadKey(file, key, "must be a text that is not empty");
  *out = *value;
  return OkStatus();
}

Status TakeUids(const std::filesystem::path& file, const toml::key& key, const toml::node& node,
                SiteConfig* config) {
  const toml::array* list = node.as_array();
  std::array<uint32_t, 3> uids{};
  bool fits = list != nullptr && list->size() == uids.size();
  for (size_t i = 0; fits && i < uids.size(); ++i) {
    const auto value = (*list)[i].value_exact<int64_t>();
    fits = value && *value > 0 && *value < UINT32_MAX;
    if (fits) uids[i] = static_cast<uint32_t>(*value);
  }
  if (!fits || uids[0] == uids[1] || uids[0] == uids[2] || uids[1] == uids[2]) {
    return BadKey(file, key, "must be three different uids above 0: trainer, gate, link");
  }
  if (::geteuid() != 0) return BadKey(file, key, "needs a start as root");
  config->separate_uids = uids;
  return OkStatus();
}

Status SetCount(const std::filesystem::path& file, const toml::key& key, const toml::node& node,
                int64_t most, int* out) {
  const auto value = node.value_exact<int64_t>();
  if (!value || *value < 1 || *value > most) {
    return BadKey(file, key, fmt::format("must be 1 … {}", most));
  }
  *out = static_cast<int>(*value);
  return OkStatus();
}

Status Take(const std::filesystem::path& file, const std::filesystem::path& dir,
            const toml::key& key, const toml::node& node, SiteConfig* config) {
  constexpr std::string_view kKeys[] = {"name",          "base",          "records",     "heldout",
                                        "threads",       "dtype",         "coordinator", "walls",
                                        "separate_uids", "ready_seconds", "stripes"};
  if (std::find(std::begin(kKeys), std::end(kKeys), key.str()) == std::end(kKeys)) {
    return BadKey(file, key, fmt::format("is not known; the keys are {}", fmt::join(kKeys, ", ")));
  }
  std::string text;
  if (key == "separate_uids") return TakeUids(file, key, node, config);
  if (key == "threads") return SetCount(file, key, node, 256, &config->threads);
  if (key == "ready_seconds") return SetCount(file, key, node, 3600, &config->ready_seconds);
  if (key == "stripes") {
    return SetCount(file, key, node, protocols::kMaxStripes, &config->stripes);
  }
  TG_RETURN_IF_ERROR(SetText(file, key, node, &text));
  if (key == "name") {
    if (!IsSiteName(text)) return BadKey(file, key, fmt::format("must be {}", kSiteNameRule));
    config->name = text;
  } else if (key == "base") {
    config->base = dir / text;
  } else if (key == "records") {
    config->records = dir / text;
  } else if (key == "heldout") {
    config->heldout = dir / text;
  } else if (key == "dtype") {
    if (text != "auto" && text != "bf16" && text != "f32") {
      return BadKey(file, key, "must be auto, bf16 or f32");
    }
    config->dtype = text;
  } else if (key == "coordinator") {
    config->coordinator = text;
  } else {
    const auto walls = ParseWallSet(text);
    if (!walls) return BadKey(file, key, "is wrong: " + walls.error().message());
    config->walls = text;
  }
  return OkStatus();
}

// In the child: writes the first IPv4 or IPv6 address as text.
[[noreturn]] void ResolveInChild(const std::string& host, const std::string& port, int out) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::alarm(kResolveMillis / 1000);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  char text[NI_MAXHOST];
  if (::getaddrinfo(host.c_str(), port.c_str(), &hints, &list) != 0 || list == nullptr ||
      ::getnameinfo(list->ai_addr, list->ai_addrlen, text, sizeof(text), nullptr, 0,
                    NI_NUMERICHOST) != 0) {
    ::_exit(1);
  }
  const std::string address(text);
  ::_exit(::write(out, address.data(), address.size()) == static_cast<ssize_t>(address.size()) ? 0
                                                                                               : 1);
}

Result<std::string> ResolveName(const std::string& host, const std::string& port) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  const Fd in(fds[0]);
  Fd out(fds[1]);
  const pid_t child = ::fork();
  if (child < 0) return Unexpected(ErrnoStatus("fork", "a resolver", errno));
  if (child == 0) ResolveInChild(host, port, out.get());
  out.reset();
  pollfd p{in.get(), POLLIN, 0};
  char text[NI_MAXHOST];
  const ssize_t n = ::poll(&p, 1, kResolveMillis) == 1 ? ::read(in.get(), text, sizeof(text)) : 0;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  if (n <= 0) {
    return Unavailable("the coordinator's name {} could not be resolved within {} s", host,
                       kResolveMillis / 1000);
  }
  return std::string(text, static_cast<size_t>(n));
}

}  // namespace

Result<SiteConfig> LoadSiteConfig(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / "site.toml";
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kMaxConfigBytes));
  SiteConfig config;
  config.walls = kDefaultDemanded.ToString();
  try {
    const toml::table table = toml::parse(text, file.native());
    for (const auto& [key, node] : table) {
      TG_RETURN_IF_ERROR(Take(file, dir, key, node, &config));
    }
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", file.native(), e.source().begin.line,
                           std::string(e.description()));
  }
  const std::pair<const char*, bool> required[] = {{"name", config.name.empty()},
                                                   {"base", config.base.empty()},
                                                   {"records", config.records.empty()},
                                                   {"coordinator", config.coordinator.empty()}};
  for (const auto& [key, missing] : required) {
    if (missing) return InvalidArgument("{} lacks the key {}", file.native(), key);
  }
  return config;
}

Result<sockaddr_storage> ResolveCoordinator(const std::string& coordinator) {
  constexpr std::string_view kScheme = "tcp://";
  if (!coordinator.starts_with(kScheme)) {
    return InvalidArgument("coordinator is \"{}\"; it must be tcp://HOST:PORT", coordinator);
  }
  const std::string rest = coordinator.substr(kScheme.size());
  if (const auto literal = ParsePinnedAddress(rest)) return *literal;
  const size_t colon = rest.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == rest.size()) {
    return InvalidArgument("coordinator is \"{}\"; it must be tcp://HOST:PORT", coordinator);
  }
  const std::string port = rest.substr(colon + 1);
  TG_ASSIGN_OR_RETURN(const std::string address, ResolveName(rest.substr(0, colon), port));
  const bool v6 = address.find(':') != std::string::npos;
  return ParsePinnedAddress(v6 ? "[" + address + "]:" + port : address + ":" + port);
}

}  // namespace tidegate::onshore
