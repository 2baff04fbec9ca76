#include "offshore/federation_config.h"

#include <toml++/toml.h>

#include "base/file.h"
#include "base/limits.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxStoreUrl = 1024;

Error BadKey(const fs::path& file, const toml::key& key, std::string_view why) {
  return InvalidArgument("{} line {}: {} {}", file.native(), key.source().begin.line, key.str(),
                         why);
}

Status TakeNumber(const fs::path& file, const toml::key& key, const toml::node& node, int64_t least,
                  int64_t most, int64_t* out) {
  const auto value = node.value_exact<int64_t>();
  if (!value || *value < least || *value > most) {
    return BadKey(file, key, fmt::format("must be a whole number, {} … {}", least, most));
  }
  *out = *value;
  return OkStatus();
}

Status TakeWeb(const fs::path& file, const toml::key& key, const std::string& text,
               FederationConfig* config) {
  if (text == "off") return OkStatus();
  const size_t colon = text.rfind(':');
  const std::string port = colon == std::string::npos ? "" : text.substr(colon + 1);
  const bool number = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string::npos;
  if (!number || colon == 0 || std::stoi(port) < 1 || std::stoi(port) > 65535) {
    return BadKey(file, key, "must be HOST:PORT, as 127.0.0.1:7444, or off");
  }
  config->web_host = text.substr(0, colon);
  config->web_port = std::stoi(port);
  return OkStatus();
}

Status Take(const fs::path& file, const toml::key& key, const toml::node& node,
            FederationConfig* config) {
  int64_t number = 0;
  if (key == "block_store_gib") {
    TG_RETURN_IF_ERROR(TakeNumber(file, key, node, 1, 1 << 20, &number));
    config->block_store_bytes = static_cast<uint64_t>(number) << 30;
    return OkStatus();
  }
  if (key == "keep_versions") {
    TG_RETURN_IF_ERROR(TakeNumber(file, key, node, 1, protocols::kMaxRounds, &number));
    config->keep_versions = static_cast<uint32_t>(number);
    return OkStatus();
  }
  if (key == "lease_seconds") {
    TG_RETURN_IF_ERROR(TakeNumber(file, key, node, 1, 3600, &number));
    config->lease_millis = static_cast<uint32_t>(number * 1000);
    return OkStatus();
  }
  if (key == "takeover_seconds") {
    TG_RETURN_IF_ERROR(TakeNumber(file, key, node, 1, 3600, &number));
    config->takeover_millis = static_cast<uint32_t>(number * 1000);
    return OkStatus();
  }
  const auto text = node.value_exact<std::string>();
  if (key == "store") {
    // Its words stay here: they may hold what belongs into a password file.
    if (!text || !text->starts_with("postgresql://") || text->size() > kMaxStoreUrl) {
      return BadKey(file, key, "must be a postgresql:// url");
    }
    config->store = *text;
    return OkStatus();
  }
  if (key == "shared_folder") {
    config->shared_folder = text.value_or("");
    if (config->shared_folder.is_absolute()) return OkStatus();
    return BadKey(file, key, "must be an absolute path");
  }
  if (key == "web") return TakeWeb(file, key, text.value_or(""), config);
  if (key == "federation") {
    const auto id = FromHex(text.value_or(""));
    if (!id || id->size() != config->federation.size()) {
      return BadKey(file, key, "must be 32 hex digits");
    }
    std::copy(id->begin(), id->end(), config->federation.begin());
    return OkStatus();
  }
  const bool known = key == "name" || key == "address" || key == "listen";
  if (!known) {
    return BadKey(file, key,
                  "is not known; the keys are name, federation, address, listen, web, "
                  "block_store_gib, keep_versions, lease_seconds, store, shared_folder, "
                  "takeover_seconds");
  }
  const size_t most = key == "name" ? protocols::kMaxName : protocols::kMaxAddress;
  if (!text || text->empty() || text->size() > most) {
    return BadKey(file, key, fmt::format("must be a text of 1 … {} bytes", most));
  }
  (key == "name" ? config->name : key == "address" ? config->address : config->listen) = *text;
  return OkStatus();
}

}  // namespace

Result<FederationConfig> LoadFederationConfig(const fs::path& dir) {
  const fs::path file = dir / "coordinator.toml";
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kMaxConfigBytes));
  FederationConfig config;
  try {
    const toml::table table = toml::parse(text, file.native());
    for (const auto& [key, node] : table) TG_RETURN_IF_ERROR(Take(file, key, node, &config));
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", file.native(), e.source().begin.line,
                           std::string(e.description()));
  }
  if (config.name.empty() || config.address.empty() || config.federation == protocols::Id16{}) {
    return InvalidArgument(
        "{} must have name, federation and address; `tidegate coordinator init` writes it",
        file.native());
  }
  if (config.store.empty() != config.shared_folder.empty()) {
    return InvalidArgument(
        "{}: store and shared_folder go together: the database, and the folder for blocks that "
        "every coordinator reaches",
        file.native());
  }
  const size_t colon = config.address.rfind(':');
  if (!config.address.starts_with("tcp://") || colon < 6 || colon + 1 == config.address.size()) {
    return InvalidArgument("{}: address is \"{}\"; it must be tcp://HOST:PORT", file.native(),
                           config.address);
  }
  if (config.listen.empty()) config.listen = "tcp://*" + config.address.substr(colon);
  return config;
}

Result<FederationKeys> LoadFederationKeys(const fs::path& dir) {
  TG_ASSIGN_OR_RETURN(crypto::SigningKey sign, crypto::ReadSigningKey(dir / "keys" / "sign.key"));
  TG_ASSIGN_OR_RETURN(crypto::CurveKeyPair curve, crypto::ReadCurveKey(dir / "keys" / "link.key"));
  return FederationKeys{std::move(sign), std::move(curve)};
}

}  // namespace tidegate::offshore
