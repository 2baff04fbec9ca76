// base list | pull. A pull is a wish that the gate follows; this verb makes it, waits for the
// answer and has the folder made behind walls. What is under way goes on when the verb is stopped.
#include <poll.h>

#include <algorithm>
#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "bases/install.h"
#include "bases/registry.h"
#include "cli/coordinator_client.h"
#include "cli/verb.h"
#include "crypto/document.h"
#include "gate/policy.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int kLookMillis = 100;
// A gate that has just started, or a base that has just been published.
constexpr int64_t kHearMillis = 15'000;
constexpr int kInstallMillis = 6 * 3600 * 1000;

struct Options {
  fs::path dir, from, from_folder;
  std::string base;
  int64_t wait_hours = 48;
  bool full = false;
  std::string walls;
};

Result<gate::Policy> ReadPolicy(const fs::path& site) {
  const fs::path file = site / "policy.toml";
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, gate::kMaxPolicyBytes));
  return gate::ParsePolicy(text, file.native());
}

bool Pins(const gate::Policy& policy, const Digest& hash) {
  return std::find(policy.base_hashes.begin(), policy.base_hashes.end(), hash) !=
         policy.base_hashes.end();
}

// The digest of the manifest that a folder was installed by; nothing for another folder.
std::optional<Digest> InstalledAs(const fs::path& folder) {
  const auto bytes = ReadFile(folder / bases::kInstalledManifest, protocols::kMaxControlBody);
  const auto document =
      bytes ? protocols::Decode<protocols::Signed>(*bytes)
            : protocols::Decoded<protocols::Signed>(tl::unexpect, protocols::DecodeError{});
  if (!document) return std::nullopt;
  return crypto::DocumentDigest(*document);
}

std::string ListText(const ordered_json& list) {
  std::string text = fmt::format("{:<28} {:>10} {:>10}  {:<24} {}\n", "BASE", "MIB", "PATCH MIB",
                                 "STATE", "BASE HASH");
  for (const auto& base : list) {
    std::string state;
    for (const char* word : {"revoked", "expired", "installed", "pinned"}) {
      if (base.contains(word) && base[word].get<bool>()) state += std::string(word) + " ";
    }
    text += fmt::format(
        "{:<28} {:>10.1f} {:>10.1f}  {:<24} {}\n",
        base["name"].get<std::string>() + "@" + std::to_string(base["version"].get<uint32_t>()),
        static_cast<double>(base["bytes"].get<uint64_t>()) / (1 << 20),
        static_cast<double>(base["patch_bytes"].get<uint64_t>()) / (1 << 20), state,
        base["base_hash"].get<std::string>());
  }
  return text;
}

// What the site's gate has heard of.
Result<ordered_json> SiteList(const fs::path& dir) {
  TG_ASSIGN_OR_RETURN(const gate::Policy policy, ReadPolicy(dir));
  TG_ASSIGN_OR_RETURN(
      const auto registry,
      bases::Registry::Read(dir / "gate" / "bases", policy.federation, *policy.coordinator_key));
  ordered_json list = ordered_json::array();
  for (const auto& [key, published] : registry.bases()) {
    const protocols::BaseManifest& m = published.manifest;
    list.push_back({{"name", key.name},
                    {"version", key.version},
                    {"base_hash", ToHex(m.base_hash)},
                    {"bytes", m.base_bytes},
                    {"patch_bytes", m.patch_bytes},
                    {"licence", m.licence.text},
                    {"expires", FormatUtc(m.expires_unix_millis)},
                    {"expired", m.expires_unix_millis <= SystemClock().UnixMillis()},
                    {"revoked", registry.Revoked(key)},
                    {"pinned", Pins(policy, m.base_hash)},
                    {"installed", InstalledAs(dir / "bases" / key.Text()) == published.digest}});
  }
  return list;
}

Status List(const Invocation& invocation, const Options& options) {
  std::error_code error;
  const bool coordinator = fs::exists(options.dir / "coordinator.toml", error);
  TG_ASSIGN_OR_RETURN(
      const ordered_json list,
      coordinator ? AskCoordinator(options.dir, {{"verb", "base_list"}}) : SiteList(options.dir));
  return Print(invocation, list, ListText);
}

// What was asked for, once the gate has heard of it.
Result<bases::Published> FindBase(const fs::path& shelf, const gate::Policy& policy,
                                  const bases::BaseKey& key, int64_t wait_millis) {
  const int64_t end = SystemClock().MonotonicMillis() + wait_millis;
  for (;;) {
    const auto registry = bases::Registry::Read(shelf, policy.federation, *policy.coordinator_key);
    const auto found = registry ? registry->Find(key)
                                : Result<const bases::Published*>(Unexpected(registry.error()));
    if (found) return **found;
    if (found.error().code() != Code::kNotFound || SystemClock().MonotonicMillis() > end) {
      return Unexpected(found.error().WithContext(
          "`tidegate base list` shows what the gate has heard of; is the site connected?"));
    }
    ::poll(nullptr, 0, kLookMillis);
  }
}

// A folder with the base that the patch is for: the one named, or one that was installed before.
std::optional<fs::path> PatchSource(const Options& options, const gate::Policy& policy,
                                    const bases::Published& base) {
  if (options.full || base.manifest.patch.bytes == 0) return std::nullopt;
  if (!options.from.empty()) return options.from;
  std::error_code error;
  for (fs::directory_iterator it(options.dir / "bases", error), end; !error && it != end;
       it.increment(error)) {
    const auto bytes = ReadFile(it->path() / bases::kInstalledManifest, protocols::kMaxControlBody);
    if (!bytes) continue;
    const auto document = protocols::Decode<protocols::Signed>(*bytes);
    if (!document) continue;
    const auto manifest = crypto::OpenDocument<protocols::BaseManifest>(
        *policy.coordinator_key, crypto::domains::kBase, *document, it->path().native());
    if (manifest && manifest->base_hash == base.manifest.patch_from) return it->path();
  }
  return std::nullopt;
}

// Until the gate has all of it.
Status WaitForBlocks(const fs::path& shelf, const std::string& wish, int64_t wait_millis) {
  // An answer without a wish is of one before; the gate removes it when it looks.
  const int64_t begin = SystemClock().MonotonicMillis();
  std::error_code error;
  while (fs::exists(shelf / "answers" / wish, error) &&
         !fs::exists(shelf / "wanted" / wish, error)) {
    if (SystemClock().MonotonicMillis() > begin + kHearMillis) {
      return Unavailable("the gate does not look into {}; is the site running?",
                         (shelf / "wanted").native());
    }
    ::poll(nullptr, 0, kLookMillis);
  }
  TG_RETURN_IF_ERROR(WriteFileDurably(shelf / "wanted" / wish, {}, 0644));
  const int64_t end = begin + wait_millis;
  for (;;) {
    const auto answer = ReadTextFile(shelf / "answers" / wish, 4096);
    if (answer && *answer == "done\n") return OkStatus();
    if (answer) {
      std::error_code ignored;
      fs::remove(shelf / "wanted" / wish, ignored);
      const std::string why = answer->substr(0, answer->find_last_not_of('\n') + 1);
      return FailedPrecondition("the gate does not fetch it: {}", why);
    }
    if (answer.error().code() != Code::kNotFound) return answer.error();
    if (SystemClock().MonotonicMillis() > end) {
      return DeadlineExceeded("not whole yet; the gate goes on, run this verb again later");
    }
    ::poll(nullptr, 0, kLookMillis);
  }
}

Result<ordered_json> InstallBehindWalls(const Options& options, const fs::path& shelf,
                                        const std::string& name, const Digest& digest,
                                        const std::optional<fs::path>& from) {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return Unexpected(ErrnoStatus("read", "/proc/self/exe", error.value()));
  std::vector<std::string> words = {(self.parent_path() / "tidegate-trainer").native(),
                                    "base-install",
                                    "--format",
                                    "json",
                                    "--shelf",
                                    shelf.native(),
                                    "--base",
                                    name,
                                    "--manifest",
                                    ToHex(digest),
                                    "--out",
                                    (options.dir / "bases").native()};
  if (from) words.insert(words.end(), {"--from", from->native()});
  if (!options.walls.empty()) words.insert(words.end(), {"--walls", options.walls});
  TG_ASSIGN_OR_RETURN(const CommandResult result, RunCommand(words, kInstallMillis, 1u << 20));
  if (result.exit_code != 0) {
    // What it said last is its error.
    std::string said = result.errors.substr(0, result.errors.find_last_not_of('\n') + 1);
    said = said.substr(said.rfind('\n') + 1);
    return MakeError(result.exit_code <= static_cast<int>(Code::kInternal)
                         ? static_cast<Code>(result.exit_code)
                         : Code::kInternal,
                     "it was fetched and not installed: {}", said);
  }
  auto json = ordered_json::parse(result.output, nullptr, false);
  if (json.is_discarded()) return Internal("base-install said no JSON");
  return json;
}

std::string PullText(const ordered_json& r) {
  return fmt::format("{}\nbase hash  {}\nfetched    {}\n", r["dir"].get<std::string>(),
                     r["base_hash"].get<std::string>(), r["fetched"].get<std::string>());
}

Status Pull(const Invocation& invocation, Options options) {
  std::error_code error;
  options.dir = fs::absolute(options.dir, error).lexically_normal();
  TG_ASSIGN_OR_RETURN(const bases::BaseKey asked, bases::ParseBaseKey(options.base));
  TG_ASSIGN_OR_RETURN(const gate::Policy policy, ReadPolicy(options.dir));
  const bool carried = !options.from_folder.empty();
  const fs::path shelf = carried ? fs::absolute(options.from_folder, error).lexically_normal()
                                 : options.dir / "gate" / "bases";
  TG_ASSIGN_OR_RETURN(const bases::Published base,
                      FindBase(shelf, policy, asked, carried ? 0 : kHearMillis));
  const protocols::BaseManifest& m = base.manifest;
  const std::string name = bases::BaseKey{m.name.text, m.version}.Text();
  if (!Pins(policy, m.base_hash)) {
    return PermissionDenied(
        "{} has base hash {}, which is not in policy.toml's jobs.base_hashes; "
        "add it there, if the site's people approve of it",
        name, ToHex(m.base_hash));
  }
  if (m.expires_unix_millis <= SystemClock().UnixMillis()) {
    return FailedPrecondition("{} expired at {}", name, FormatUtc(m.expires_unix_millis));
  }
  const fs::path target = options.dir / "bases" / name;
  ordered_json report = {{"base", name},
                         {"dir", target.native()},
                         {"base_hash", ToHex(m.base_hash)},
                         {"fetched", "before"}};
  if (InstalledAs(target) == base.digest) return Print(invocation, report, PullText);
  const auto from = PatchSource(options, policy, base);
  const std::string wish = name + (from ? ".patch" : ".full");
  if (!carried) {
    TG_RETURN_IF_ERROR(WaitForBlocks(shelf, wish, options.wait_hours * 3600 * 1000));
  }
  TG_ASSIGN_OR_RETURN(const ordered_json made,
                      InstallBehindWalls(options, shelf, name, base.digest, from));
  if (!carried) fs::remove(shelf / "wanted" / wish, error);
  report["fetched"] = from ? "patch" : "whole";
  report["fetched_bytes"] = from ? m.patch_bytes : m.base_bytes;
  report["walls"] = made["walls"];
  return Print(invocation, report, PullText);
}

}  // namespace

void RegisterBasePull(CLI::App& group, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  AddVerb(group, "list", "The bases that are published, or that a site has heard of", invocation,
          [&invocation, options] { return List(invocation, *options); })
      ->add_option("--dir", options->dir, "A coordinator's folder, or a site's")
      ->required();
  CLI::App* pull =
      AddVerb(group, "pull", "Fetch a published base into SITE/bases, verified (onshore)",
              invocation, [&invocation, options] { return Pull(invocation, *options); });
  pull->add_option("BASE", options->base, "NAME, for its newest version, or NAME@VERSION")
      ->required();
  pull->add_option("--dir", options->dir, "The site's folder")->required();
  pull->add_option(
      "--from", options->from,
      "A folder with the base that its patch is for; default: looked for in SITE/bases");
  pull->add_flag("--full", options->full, "Fetch all of it, whatever patch there is");
  pull->add_option("--from_folder", options->from_folder,
                   "A copy of the coordinator's bases/ that was carried here: no network");
  pull->add_option("--wait_hours", options->wait_hours, "The gate goes on after that")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  pull->add_option("--walls", options->walls, "Walls that must stand while it is unpacked");
}

}  // namespace tidegate::cli
