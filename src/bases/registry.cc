#include "bases/registry.h"

#include <algorithm>
#include <charconv>

#include "base/file.h"
#include "base/log.h"
#include "base/site_name.h"
#include "crypto/document.h"

namespace tidegate::bases {
namespace {

namespace fs = std::filesystem;
using protocols::BaseManifest;
using protocols::BaseRevocation;

constexpr std::string_view kManifestSuffix = ".base";
constexpr std::string_view kRevokedSuffix = ".revoked";
// Of one folder, so that a coordinator can not fill a site's disk with documents.
constexpr size_t kMaxDocuments = 4096;

Result<protocols::Signed> ReadDocument(const fs::path& path) {
  TG_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, protocols::kMaxControlBody));
  auto document = protocols::Decode<protocols::Signed>(bytes);
  if (!document) return DataLoss("{}: {}", path.native(), document.error().reason);
  return std::move(*document);
}

}  // namespace

Result<BaseKey> ParseBaseKey(std::string_view text) {
  const size_t at = text.find('@');
  BaseKey key{std::string(text.substr(0, at)), 0};
  bool good = IsSiteName(key.name);
  if (good && at != std::string_view::npos) {
    const std::string_view digits = text.substr(at + 1);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), key.version);
    good = error == std::errc() && end == digits.data() + digits.size() && key.version > 0 &&
           std::to_string(key.version) == digits;
  }
  if (good) return key;
  return InvalidArgument("{} must be NAME or NAME@VERSION; NAME must be {}", text, kSiteNameRule);
}

Result<Registry> Registry::Open(fs::path dir, const protocols::Id16& federation,
                                const crypto::VerifyKey& coordinator) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return Unavailable("cannot make {}: {}", dir.native(), error.message());
  return Read(std::move(dir), federation, coordinator);
}

Result<Registry> Registry::Read(fs::path dir, const protocols::Id16& federation,
                                const crypto::VerifyKey& coordinator) {
  Registry registry(std::move(dir), federation, coordinator);
  TG_RETURN_IF_ERROR(registry.Load(false));
  return registry;
}

Result<Registry> Registry::OpenGood(fs::path dir, const protocols::Id16& federation,
                                    const crypto::VerifyKey& coordinator) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return Unavailable("cannot make {}: {}", dir.native(), error.message());
  Registry registry(std::move(dir), federation, coordinator);
  TG_RETURN_IF_ERROR(registry.Load(true));
  return registry;
}

Status Registry::Load(bool drop_bad) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator it(dir_, error), end; !error && it != end; it.increment(error)) {
    const std::string extension = it->path().extension().native();
    if (extension == kManifestSuffix || extension == kRevokedSuffix) paths.push_back(it->path());
  }
  if (error) return NotFound("cannot list {}: {}", dir_.native(), error.message());
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths) {
    const Status status = LoadDocument(path);
    if (status.ok()) continue;
    if (!drop_bad) return status;
    LogWarning("base_document_dropped {}", status.ToString());
    fs::remove(path, error);
    if (error) return ErrnoStatus("remove", path.native(), error.value());
  }
  return OkStatus();
}

Status Registry::LoadDocument(const fs::path& path) {
  TG_ASSIGN_OR_RETURN(const protocols::Signed document, ReadDocument(path));
  TG_ASSIGN_OR_RETURN(const BaseKey named, ParseBaseKey(path.stem().native()));
  const auto check = [&](const BaseKey& is) -> Status {
    if (is == named) return OkStatus();
    return DataLoss("{} is the document of {}", path.native(), is.Text());
  };
  if (path.extension() == kManifestSuffix) {
    Published published;
    TG_ASSIGN_OR_RETURN(const auto refusal, Judge(document, &published));
    if (refusal) return DataLoss("{}: {}", path.native(), refusal->reason);
    TG_RETURN_IF_ERROR(check({published.manifest.name.text, published.manifest.version}));
    bases_[named] = std::move(published);
    return OkStatus();
  }
  TG_ASSIGN_OR_RETURN(const BaseRevocation revocation,
                      crypto::OpenDocument<BaseRevocation>(
                          coordinator_, crypto::domains::kBaseRevocation, document, path.native()));
  TG_RETURN_IF_ERROR(check({revocation.name.text, revocation.version}));
  revocations_[named] = document;
  revoked_hashes_.insert(revocation.base_hash);
  return OkStatus();
}

// What a manifest is by itself, whatever is known beside it.
Result<std::optional<Registry::Refusal>> Registry::Judge(const protocols::Signed& document,
                                                         Published* out) const {
  auto manifest =
      crypto::OpenDocument<BaseManifest>(coordinator_, crypto::domains::kBase, document, "base");
  if (!manifest) return Refusal{"signature", manifest.error().message()};
  if (manifest->federation != federation_) return Refusal{"federation", "of another federation"};
  if (!IsSiteName(manifest->name.text) || manifest->version == 0) {
    return Refusal{"version", "the base's name or version can't be one"};
  }
  for (const protocols::BaseList* list : {&manifest->index, &manifest->patch}) {
    if (const Status status = CheckList(*list); !status.ok()) {
      return Refusal{"index", status.message()};
    }
  }
  if (manifest->index.bytes == 0) return Refusal{"index", "the base has no index"};
  const bool patched = manifest->patch_from != Digest{};
  if (patched != (manifest->patch.bytes > 0)) {
    return Refusal{"index", "the base has half a patch"};
  }
  *out = {document, std::move(*manifest), crypto::DocumentDigest(document)};
  return std::nullopt;
}

Result<std::optional<Registry::Refusal>> Registry::Take(const protocols::Signed& document) {
  Published published;
  TG_ASSIGN_OR_RETURN(auto refusal, Judge(document, &published));
  if (refusal) return refusal;
  const BaseManifest& m = published.manifest;
  const BaseKey key{m.name.text, m.version};
  if (const auto it = bases_.find(key); it != bases_.end()) {
    if (it->second.digest == published.digest) return std::nullopt;
    return Refusal{"version", fmt::format("another document of {} is known", key.Text())};
  }
  if (Revoked(key)) return std::nullopt;  // taken back before it was heard of
  const Published* newest = Newest(key.name);
  if (newest != nullptr && newest->manifest.version > m.version) {
    return Refusal{"version", fmt::format("version {} of {} is not above {}", m.version, key.name,
                                          newest->manifest.version)};
  }
  if (newest != nullptr && newest->manifest.version + 1 == m.version &&
      m.previous != newest->digest) {
    return Refusal{"previous",
                   fmt::format("{} does not follow from the version before", key.Text())};
  }
  if (bases_.size() >= kMaxDocuments) {
    return Refusal{"number", fmt::format("{} manifests are kept already", kMaxDocuments)};
  }
  TG_RETURN_IF_ERROR(WriteFileDurably(dir_ / (key.Text() + std::string(kManifestSuffix)),
                                      protocols::Encode(document)));
  bases_[key] = std::move(published);
  return std::nullopt;
}

Result<std::optional<Registry::Refusal>> Registry::TakeRevocation(
    const protocols::Signed& document) {
  const auto revocation = crypto::OpenDocument<BaseRevocation>(
      coordinator_, crypto::domains::kBaseRevocation, document, "base revocation");
  if (!revocation) return Refusal{"signature", revocation.error().message()};
  if (revocation->federation != federation_ || !IsSiteName(revocation->name.text)) {
    return Refusal{"federation", "of another federation, or its name can't be one"};
  }
  const BaseKey key{revocation->name.text, revocation->version};
  if (Revoked(key)) return std::nullopt;
  if (revocations_.size() >= kMaxDocuments) {
    return Refusal{"number", fmt::format("{} revocations are kept already", kMaxDocuments)};
  }
  TG_RETURN_IF_ERROR(WriteFileDurably(dir_ / (key.Text() + std::string(kRevokedSuffix)),
                                      protocols::Encode(document)));
  revocations_[key] = document;
  revoked_hashes_.insert(revocation->base_hash);
  return std::nullopt;
}

const Published* Registry::Newest(const std::string& name) const {
  const auto after = bases_.upper_bound({name, UINT32_MAX});
  if (after == bases_.begin()) return nullptr;
  const auto& [key, published] = *std::prev(after);
  return key.name == name ? &published : nullptr;
}

Result<const Published*> Registry::Find(const BaseKey& key) const {
  const Published* found = nullptr;
  for (const auto& [known, published] : bases_) {
    if (known.name != key.name) continue;
    if (key.version == 0 ? !Revoked(known) : known.version == key.version) found = &published;
  }
  if (found == nullptr) return NotFound("no base {} is known here", key.Text());
  if (Revoked({key.name, found->manifest.version})) {
    return FailedPrecondition("{} was revoked by the coordinator", key.Text());
  }
  return found;
}

std::vector<const Published*> Registry::InForce() const {
  std::vector<const Published*> all;
  for (const auto& [key, published] : bases_) {
    if (!Revoked(key)) all.push_back(&published);
  }
  std::stable_sort(all.begin(), all.end(), [](const Published* a, const Published* b) {
    return a->manifest.created_unix_millis < b->manifest.created_unix_millis;
  });
  if (all.size() > protocols::kMaxBases) all.erase(all.begin(), all.end() - protocols::kMaxBases);
  return all;
}

}  // namespace tidegate::bases
