// base publish | revoke: a base is cut into blocks here, beside the coordinator, which signs and
// serves; so a running coordinator is not held up by hashing gigabytes.
#include <fcntl.h>
#include <sys/file.h>

#include <filesystem>
#include <set>

#include "base/clock.h"
#include "base/file.h"
#include "bases/install.h"
#include "bases/patch.h"
#include "bases/registry.h"
#include "blocks/block_store.h"
#include "cli/coordinator_client.h"
#include "cli/verb.h"
#include "crypto/base_hash.h"
#include "model/config.h"
#include "model/weight_layout.h"
#include "tensor/safetensors.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr uint64_t kStoreBytes = 16ull << 40;
constexpr int64_t kDayMillis = 24 * 3600 * 1000;
// The coordinator looks at every block's name; a large base on a slow disk.
constexpr int64_t kPublishMillis = 10 * 60'000;
// A patch that saves less than this share of a base is not worth its second list.
constexpr double kWorthIt = 0.9;

struct Options {
  fs::path dir, base;
  std::string name, licence, reason;
  int64_t expires_days = 365;
  bool no_patch = false;
};

Status CheckBase(const fs::path& dir) {
  TG_ASSIGN_OR_RETURN(const model::ModelConfig config, model::LoadHfConfig(dir / "config.json"));
  TG_ASSIGN_OR_RETURN(const auto weights, tensor::SafetensorsFolder::Open(dir));
  return model::CheckWeights(config, weights).WithContext(dir.native());
}

// Held while blocks are put or removed.
Result<Fd> LockShelf(const fs::path& shelf) {
  std::error_code error;
  fs::create_directories(shelf, error);
  const fs::path file = shelf / "lock";
  Fd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open", file.native(), errno));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return Unavailable("another `tidegate base publish` works in {}; wait for it", shelf.native());
  }
  return fd;
}

Result<bases::Registry> ReadShelf(const fs::path& coordinator) {
  TG_ASSIGN_OR_RETURN(const ordered_json where,
                      AskCoordinator(coordinator, {{"verb", "base_shelf"}}));
  TG_ASSIGN_OR_RETURN(const auto key, crypto::VerifyKey::FromText(where["key"].get<std::string>()));
  TG_ASSIGN_OR_RETURN(const Bytes id, FromHex(where["federation"].get<std::string>()));
  protocols::Id16 federation_id{};
  if (id.size() != federation_id.size()) return Internal("the federation's id is no id");
  std::copy(id.begin(), id.end(), federation_id.begin());
  return bases::Registry::Read(where["dir"].get<std::string>(), federation_id, key);
}

ordered_json ListJson(const protocols::BaseList& list) {
  ordered_json json = {{"bytes", list.bytes}, {"blocks", ordered_json::array()}};
  for (const Digest& id : list.blocks.items) json["blocks"].push_back(ToHex(id));
  return json;
}

// The version before, as a folder again for as long as the object lives.
class PreviousFolder {
 public:
  static Result<PreviousFolder> Make(const bases::Registry& registry,
                                     const bases::Published& previous) {
    fs::path path = registry.dir() / "previous";
    std::error_code error;
    fs::remove_all(path, error);
    PreviousFolder folder(path);
    TG_RETURN_IF_ERROR(bases::Install(
        {previous.document, previous.manifest, bases::BlocksIn(registry.blocks_dir()), {}, path}));
    return folder;
  }
  PreviousFolder(PreviousFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ~PreviousFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  explicit PreviousFolder(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

// Adds the patch to the request, where it is worth it.
Status AddPatch(const Options& options, const bases::Registry& registry,
                const bases::Published& previous, const protocols::BaseIndex& index,
                uint64_t base_bytes, const bases::BlockSink& sink, ordered_json* request) {
  TG_ASSIGN_OR_RETURN(const PreviousFolder folder, PreviousFolder::Make(registry, previous));
  TG_ASSIGN_OR_RETURN(const bases::MadePatch made,
                      bases::MakePatch(folder.path(), options.base, index, sink));
  if (static_cast<double>(made.bytes) >= kWorthIt * static_cast<double>(base_bytes)) {
    return OkStatus();
  }
  TG_ASSIGN_OR_RETURN(const protocols::BaseList list,
                      bases::PutList(protocols::Encode(made.patch), sink));
  (*request)["patch_from"] = ToHex(previous.manifest.base_hash);
  (*request)["patch_bytes"] = made.bytes;
  (*request)["patch"] = ListJson(list);
  return OkStatus();
}

// Blocks of no version in force: of one that was revoked, of a publish that was cut off.
Status RemoveUnused(const fs::path& coordinator, blocks::BlockStore& store) {
  TG_ASSIGN_OR_RETURN(const bases::Registry registry, ReadShelf(coordinator));
  std::set<Digest> keep;
  const auto add = [&keep](const std::vector<Digest>& ids) { keep.insert(ids.begin(), ids.end()); };
  const auto source = bases::BlocksIn(registry.blocks_dir());
  for (const auto& [key, published] : registry.bases()) {
    if (registry.Revoked(key)) continue;
    const protocols::BaseManifest& m = published.manifest;
    add(m.index.blocks.items);
    add(m.patch.blocks.items);
    TG_ASSIGN_OR_RETURN(const Bytes encoded, bases::GetList(m.index, source));
    const auto index = protocols::Decode<protocols::BaseIndex>(encoded);
    TG_ASSIGN_OR_RETURN(const Bytes list, bases::GetList(m.patch, source));
    const auto patch =
        m.patch.bytes == 0 ? protocols::BasePatch{} : protocols::Decode<protocols::BasePatch>(list);
    if (!index || !patch) return DataLoss("a list of {} does not decode", key.Text());
    add(bases::IdsOf(*index));
    add(patch->blocks.items);
  }
  TG_ASSIGN_OR_RETURN(const std::vector<Digest> all, store.List());
  for (const Digest& id : all) {
    if (!keep.contains(id)) TG_RETURN_IF_ERROR(store.Remove(id));
  }
  return OkStatus();
}

std::string PublishText(const ordered_json& r) {
  std::string text = fmt::format("{}  {:.1f} MiB\nbase hash   {}\n", r["base"].get<std::string>(),
                                 static_cast<double>(r["bytes"].get<uint64_t>()) / (1 << 20),
                                 r["base_hash"].get<std::string>());
  if (r.contains("patch_bytes")) {
    text += fmt::format("patch       {:.1f} MiB, {:.1f} % of it\n",
                        static_cast<double>(r["patch_bytes"].get<uint64_t>()) / (1 << 20),
                        100 * static_cast<double>(r["patch_bytes"].get<uint64_t>()) /
                            static_cast<double>(r["bytes"].get<uint64_t>()));
  }
  return text;
}

Status Publish(const Invocation& invocation, const Options& options) {
  TG_RETURN_IF_ERROR(CheckBase(options.base));
  TG_ASSIGN_OR_RETURN(const Digest hash, crypto::BaseHash(options.base));
  TG_ASSIGN_OR_RETURN(bases::Registry registry, ReadShelf(options.dir));
  TG_ASSIGN_OR_RETURN(const Fd lock, LockShelf(registry.dir()));
  // Whoever published before has finished.
  TG_ASSIGN_OR_RETURN(registry, ReadShelf(options.dir));
  const bases::Published* newest = registry.Newest(options.name);
  const bool patched =
      newest != nullptr && !registry.Revoked({options.name, newest->manifest.version});
  if (patched && newest->manifest.base_hash == hash) {
    return AlreadyExists("these very files are published as {}@{}", options.name,
                         newest->manifest.version);
  }
  TG_ASSIGN_OR_RETURN(blocks::BlockStore store,
                      blocks::BlockStore::Open(registry.blocks_dir(), kStoreBytes));
  const auto sink = [&store](const Digest& id, ByteSpan block) {
    return store.PutHashed(id, block);
  };
  TG_ASSIGN_OR_RETURN(const protocols::BaseIndex index, bases::CutBase(options.base, sink));
  TG_ASSIGN_OR_RETURN(const protocols::BaseList list,
                      bases::PutList(protocols::Encode(index), sink));
  uint64_t bytes = 0;
  for (const protocols::BaseFile& file : index.files.items) bytes += file.bytes;
  ordered_json request = {
      {"verb", "base_publish"},
      {"name", options.name},
      {"licence", options.licence},
      {"expires_unix_millis",
       static_cast<uint64_t>(SystemClock().UnixMillis() + options.expires_days * kDayMillis)},
      {"previous", ToHex(newest == nullptr ? Digest{} : newest->digest)},
      {"base_hash", ToHex(hash)},
      {"base_bytes", bytes},
      {"index", ListJson(list)}};
  if (patched && !options.no_patch) {
    TG_RETURN_IF_ERROR(AddPatch(options, registry, *newest, index, bytes, sink, &request));
  }
  TG_RETURN_IF_ERROR(store.Sync());
  TG_ASSIGN_OR_RETURN(ordered_json answer, AskCoordinator(options.dir, request, kPublishMillis));
  answer["bytes"] = bytes;
  if (request.contains("patch_bytes")) answer["patch_bytes"] = request["patch_bytes"];
  TG_RETURN_IF_ERROR(RemoveUnused(options.dir, store));
  return Print(invocation, answer, PublishText);
}

Status Revoke(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(const ordered_json answer,
                      AskCoordinator(options.dir, {{"verb", "base_revoke"},
                                                   {"base", options.name},
                                                   {"reason", options.reason}}));
  return Print(invocation, answer, [](const ordered_json& a) {
    return fmt::format(
        "{} is revoked: sites that hear of it fetch it no more and take no job on "
        "it\n",
        a["base"].get<std::string>());
  });
}

}  // namespace

void RegisterBasePublish(CLI::App& group, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* publish =
      AddVerb(group, "publish", "Sign a base and offer it to sites (offshore)", invocation,
              [&invocation, options] { return Publish(invocation, *options); });
  publish->add_option("BASE", options->base, "HF folder")->required();
  publish->add_option("--dir", options->dir, "The coordinator's folder")->required();
  publish->add_option("--name", options->name, "What sites call it")->required();
  publish->add_option("--licence", options->licence, "Of the weights, as SPDX or in words")
      ->required();
  publish->add_option("--expires_days", options->expires_days, "After these no site fetches it")
      ->check(CLI::Range(1, 36500))
      ->capture_default_str();
  publish->add_flag("--no_patch", options->no_patch,
                    "No patch from the version before, which else is made where it is worth it");
  CLI::App* revoke =
      AddVerb(group, "revoke", "Take a version back, for good (offshore)", invocation,
              [&invocation, options] { return Revoke(invocation, *options); });
  revoke->add_option("BASE", options->name, "NAME@VERSION")->required();
  revoke->add_option("--dir", options->dir, "The coordinator's folder")->required();
  revoke->add_option("--reason", options->reason, "For the people of the sites")->required();
}

}  // namespace tidegate::cli
