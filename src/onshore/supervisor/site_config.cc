#include "onshore/supervisor/site_config.h"

#include <unistd.h>

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>

#include "base/file.h"
#include "base/limits.h"
#include "base/site_name.h"
#include "onshore/sandbox/walls.h"
#include "protocols/limits.h"

namespace tidegate::onshore {
namespace {

constexpr int64_t kMinSpoolBytes = 1 << 20;
constexpr size_t kMaxApiUsers = 64;
constexpr int64_t kWeekSeconds = 7 * 24 * 3600;

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

Status TakeApi(const std::filesystem::path& file, const std::filesystem::path& dir,
               const toml::key& key, const toml::node& node, SiteConfig* config) {
  const auto id_of = [](const toml::node& from) -> std::optional<uint32_t> {
    const auto value = from.value_exact<int64_t>();
    if (!value || *value < 0 || *value >= UINT32_MAX) return std::nullopt;
    return static_cast<uint32_t>(*value);
  };
  if (key == "api_socket") {
    std::string text;
    TG_RETURN_IF_ERROR(SetText(file, key, node, &text));
    config->api_socket = dir / text;
    return OkStatus();
  }
  if (key == "api_group") {
    config->api_group = id_of(node);
    return config->api_group ? OkStatus() : BadKey(file, key, "must be the number of a group");
  }
  const toml::array* list = node.as_array();
  bool fits = list != nullptr && !list->empty() && list->size() <= kMaxApiUsers;
  for (size_t i = 0; fits && i < list->size(); ++i) {
    const auto uid = id_of((*list)[i]);
    fits = uid.has_value();
    if (fits) config->api_users.push_back(*uid);
  }
  if (fits) return OkStatus();
  return BadKey(file, key, fmt::format("must be a list of 1 … {} uids", kMaxApiUsers));
}

Status TakeProxy(const std::filesystem::path& file, const std::filesystem::path& dir,
                 const toml::key& key, const std::string& text, SiteConfig* config) {
  if (key == "proxy") {
    if (!text.starts_with("socks5://") || text.find('@') != std::string::npos) {
      return BadKey(file, key,
                    "must be socks5://HOST:PORT; a user goes into proxy_user, the password into "
                    "the file that proxy_password_file names");
    }
    config->proxy = text;
  } else if (key == "proxy_user") {
    if (text.size() > 255) return BadKey(file, key, "must have at most 255 bytes");
    config->proxy_user = text;
  } else {
    config->proxy_password_file = dir / text;
  }
  return OkStatus();
}

// Of keys that say something only together.
Status CheckProxy(const std::filesystem::path& file, const SiteConfig& config) {
  const bool user = !config.proxy_user.empty(), password = !config.proxy_password_file.empty();
  if (config.proxy.empty() && (user || password || config.proxy_resolves)) {
    return InvalidArgument("{} has proxy_… keys and lacks the key proxy", file.native());
  }
  if (user != password) {
    return InvalidArgument("{} lacks the key {}: user and password of the proxy go together",
                           file.native(), user ? "proxy_password_file" : "proxy_user");
  }
  return OkStatus();
}

Status Take(const std::filesystem::path& file, const std::filesystem::path& dir,
            const toml::key& key, const toml::node& node, SiteConfig* config) {
  constexpr std::string_view kKeys[] = {"name",
                                        "base",
                                        "records",
                                        "heldout",
                                        "threads",
                                        "dtype",
                                        "device",
                                        "coordinator",
                                        "walls",
                                        "separate_uids",
                                        "ready_seconds",
                                        "stripes",
                                        "proxy",
                                        "proxy_user",
                                        "proxy_password_file",
                                        "proxy_resolves",
                                        "max_spool_bytes",
                                        "api_socket",
                                        "api_group",
                                        "api_users",
                                        "free_trainer_seconds"};
  if (std::find(std::begin(kKeys), std::end(kKeys), key.str()) == std::end(kKeys)) {
    return BadKey(file, key, fmt::format("is not known; the keys are {}", fmt::join(kKeys, ", ")));
  }
  std::string text;
  if (key == "separate_uids") return TakeUids(file, key, node, config);
  if (key == "threads") return SetCount(file, key, node, 256, &config->threads);
  if (key == "ready_seconds") return SetCount(file, key, node, 3600, &config->ready_seconds);
  if (key == "free_trainer_seconds") {
    return SetCount(file, key, node, kWeekSeconds, &config->free_trainer_seconds);
  }
  if (key.str().starts_with("api_")) return TakeApi(file, dir, key, node, config);
  if (key == "stripes") {
    return SetCount(file, key, node, protocols::kMaxStripes, &config->stripes);
  }
  if (key == "max_spool_bytes") {
    const auto value = node.value_exact<int64_t>();
    if (!value || *value < kMinSpoolBytes ||
        static_cast<uint64_t>(*value) > protocols::kMaxSpoolBytes) {
      return BadKey(file, key,
                    fmt::format("must be {} … {}", kMinSpoolBytes, protocols::kMaxSpoolBytes));
    }
    config->max_spool_bytes = static_cast<uint64_t>(*value);
    return OkStatus();
  }
  if (key == "proxy_resolves") {
    const auto value = node.value_exact<bool>();
    if (!value) return BadKey(file, key, "must be true or false");
    config->proxy_resolves = *value;
    return OkStatus();
  }
  TG_RETURN_IF_ERROR(SetText(file, key, node, &text));
  if (key.str().starts_with("proxy")) return TakeProxy(file, dir, key, text, config);
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
  } else if (key == "device") {
    if (text != "cpu" && text != "cuda") return BadKey(file, key, "must be cpu or cuda");
    config->device = text;
  } else if (key == "coordinator") {
    config->coordinator = text;
  } else {
    const auto walls = ParseWallSet(text);
    if (!walls) return BadKey(file, key, "is wrong: " + walls.error().message());
    config->walls = text;
  }
  return OkStatus();
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
  TG_RETURN_IF_ERROR(CheckProxy(file, config));
  if (!config.api_users.empty() && !config.api_group) {
    return InvalidArgument(
        "{} has api_users and lacks the key api_group: only members of the socket's group get to "
        "it",
        file.native());
  }
  if (config.api_socket.empty()) config.api_socket = dir / "api.sock";
  return config;
}

}  // namespace tidegate::onshore
