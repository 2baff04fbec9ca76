#include "offshore/base_shelf.h"

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "base/site_name.h"
#include "bases/patch.h"
#include "blocks/content.h"
#include "crypto/document.h"

namespace tidegate::offshore {
namespace {

using bases::BaseKey;
using nlohmann::json;
using protocols::BaseManifest;

Result<std::string> TextOf(const json& request, const char* key, size_t most) {
  const auto it = request.find(key);
  if (it == request.end() || !it->is_string() || it->get<std::string>().size() > most) {
    return InvalidArgument("the request lacks the text {} of at most {} characters", key, most);
  }
  auto text = it->get<std::string>();
  if (!std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7e; })) {
    return InvalidArgument("{} must be printable ASCII", key);
  }
  return text;
}

Result<uint64_t> NumberOf(const json& request, const char* key) {
  const auto it = request.find(key);
  if (it == request.end() || !it->is_number_unsigned()) {
    return InvalidArgument("the request lacks the number {}", key);
  }
  return it->get<uint64_t>();
}

Result<Digest> DigestOf(const json& request, const char* key) {
  TG_ASSIGN_OR_RETURN(const std::string text, TextOf(request, key, 64));
  return DigestFromHex(text);
}

Result<protocols::BaseList> ListOf(const json& request, const char* key) {
  const auto it = request.find(key);
  if (it == request.end() || !it->is_object() || !it->contains("blocks") ||
      !(*it)["blocks"].is_array()) {
    return InvalidArgument("the request lacks the list {}", key);
  }
  protocols::BaseList list;
  TG_ASSIGN_OR_RETURN(list.bytes, NumberOf(*it, "bytes"));
  for (const json& one : (*it)["blocks"]) {
    if (!one.is_string()) return InvalidArgument("the blocks of {} must be texts", key);
    TG_ASSIGN_OR_RETURN(const Digest id, DigestFromHex(one.get<std::string>()));
    list.blocks.items.push_back(id);
  }
  TG_RETURN_IF_ERROR(bases::CheckList(list));
  return list;
}

// What the request says; version, previous and time are the coordinator's.
Result<BaseManifest> ManifestOf(const json& request) {
  BaseManifest m;
  TG_ASSIGN_OR_RETURN(m.name.text, TextOf(request, "name", kMaxSiteName));
  if (!IsSiteName(m.name.text)) return InvalidArgument("a base's name must be {}", kSiteNameRule);
  TG_ASSIGN_OR_RETURN(m.licence.text, TextOf(request, "licence", protocols::kMaxBaseLicence));
  TG_ASSIGN_OR_RETURN(const uint64_t expires, NumberOf(request, "expires_unix_millis"));
  m.expires_unix_millis = static_cast<int64_t>(std::min<uint64_t>(expires, INT64_MAX));
  TG_ASSIGN_OR_RETURN(m.base_hash, DigestOf(request, "base_hash"));
  TG_ASSIGN_OR_RETURN(m.base_bytes, NumberOf(request, "base_bytes"));
  TG_ASSIGN_OR_RETURN(m.index, ListOf(request, "index"));
  if (!request.contains("patch")) return m;
  TG_ASSIGN_OR_RETURN(m.patch_from, DigestOf(request, "patch_from"));
  TG_ASSIGN_OR_RETURN(m.patch_bytes, NumberOf(request, "patch_bytes"));
  TG_ASSIGN_OR_RETURN(m.patch, ListOf(request, "patch"));
  return m;
}

std::shared_ptr<const std::vector<Digest>> Shared(std::span<const Digest> ids) {
  return std::make_shared<const std::vector<Digest>>(ids.begin(), ids.end());
}

}  // namespace

Result<BaseShelf> BaseShelf::Open(const std::filesystem::path& dir,
                                  const protocols::Id16& federation, const crypto::VerifyKey& own) {
  TG_ASSIGN_OR_RETURN(bases::Registry registry, bases::Registry::Open(dir, federation, own));
  return BaseShelf(std::move(registry), federation, own.ToText());
}

Result<Bytes> BaseShelf::Block(const Digest& id) {
  return bases::BlocksIn(registry_.blocks_dir())(id);
}

Result<Bytes> BaseShelf::List(const protocols::BaseList& list) {
  return bases::GetList(list, [this](const Digest& id) { return Block(id); });
}

Result<BaseShelf::Contents> BaseShelf::ContentsOf(const BaseManifest& manifest) {
  Contents contents;
  const auto add = [&contents](std::span<const Digest> ids) {
    for (const bases::Part& part : bases::PartsOf(ids)) {
      contents[part.content] = Shared(ids.subspan(part.first, part.blocks));
    }
  };
  TG_ASSIGN_OR_RETURN(const Bytes encoded, List(manifest.index));
  const auto index = protocols::Decode<protocols::BaseIndex>(encoded);
  if (!index) return InvalidArgument("the base's index: {}", index.error().reason);
  TG_RETURN_IF_ERROR(bases::CheckIndex(*index, manifest.base_bytes));
  add(manifest.index.blocks.items);
  add(bases::IdsOf(*index));
  if (manifest.patch.bytes == 0) return contents;
  TG_ASSIGN_OR_RETURN(const Bytes list, List(manifest.patch));
  const auto patch = protocols::Decode<protocols::BasePatch>(list);
  if (!patch) return InvalidArgument("the base's patch: {}", patch.error().reason);
  TG_RETURN_IF_ERROR(bases::CheckPatch(*patch, manifest.patch_bytes, *index));
  add(manifest.patch.blocks.items);
  add(patch->blocks.items);
  return contents;
}

Result<const bases::Published*> BaseShelf::Publish(const json& request,
                                                   const crypto::SigningKey& key, int64_t now) {
  TG_ASSIGN_OR_RETURN(BaseManifest m, ManifestOf(request));
  TG_ASSIGN_OR_RETURN(m.previous, DigestOf(request, "previous"));
  const bases::Published* newest = registry_.Newest(m.name.text);
  if (m.previous != (newest == nullptr ? Digest{} : newest->digest)) {
    return FailedPrecondition("another version of {} was published meanwhile; publish again",
                              m.name.text);
  }
  if (m.expires_unix_millis <= now) return InvalidArgument("the base would have expired already");
  if (registry_.RevokedHash(m.base_hash)) {
    return FailedPrecondition("a version with these very files was revoked; sites refuse them");
  }
  m.federation = federation_;
  m.version = newest == nullptr ? 1 : newest->manifest.version + 1;
  m.created_unix_millis = now;
  TG_ASSIGN_OR_RETURN(Contents contents, ContentsOf(m));
  for (const auto& [content, ids] : contents) {
    for (const Digest& id : *ids) {
      const std::string hex = ToHex(id);
      std::error_code error;
      if (!std::filesystem::exists(registry_.blocks_dir() / hex.substr(0, 2) / hex.substr(2),
                                   error)) {
        return NotFound("block {} of the base is not in {}", hex, registry_.blocks_dir().native());
      }
    }
  }
  TG_ASSIGN_OR_RETURN(const protocols::Signed document,
                      crypto::SignDocument(key, crypto::domains::kBase, m));
  TG_ASSIGN_OR_RETURN(const auto refusal, registry_.Take(document));
  if (refusal) return FailedPrecondition("{}", refusal->reason);
  LogInfo("base_published base={}@{} bytes={} hash={}", m.name.text, m.version, m.base_bytes,
          ToHex(m.base_hash));
  contents_[{m.name.text, m.version}] = std::move(contents);
  return registry_.Find({m.name.text, m.version});
}

Result<BaseKey> BaseShelf::Revoke(const json& request, const crypto::SigningKey& key, int64_t now) {
  TG_ASSIGN_OR_RETURN(const std::string text, TextOf(request, "base", 80));
  TG_ASSIGN_OR_RETURN(const BaseKey base, bases::ParseBaseKey(text));
  if (base.version == 0) return InvalidArgument("name the version: {}@VERSION", text);
  protocols::BaseRevocation revocation;
  TG_ASSIGN_OR_RETURN(revocation.reason.text, TextOf(request, "reason", protocols::kMaxBaseReason));
  TG_ASSIGN_OR_RETURN(const bases::Published* published, registry_.Find(base));
  revocation.federation = federation_;
  revocation.name = base.name;
  revocation.version = base.version;
  revocation.base_hash = published->manifest.base_hash;
  revocation.unix_millis = now;
  TG_ASSIGN_OR_RETURN(const protocols::Signed document,
                      crypto::SignDocument(key, crypto::domains::kBaseRevocation, revocation));
  TG_ASSIGN_OR_RETURN(const auto refusal, registry_.TakeRevocation(document));
  if (refusal) return FailedPrecondition("{}", refusal->reason);
  contents_.erase(base);
  LogInfo("base_revoked base={}", base.Text());
  return base;
}

nlohmann::ordered_json BaseShelf::WhereJson() const {
  std::error_code error;
  return {{"dir", std::filesystem::absolute(registry_.dir(), error).native()},
          {"federation", ToHex(federation_)},
          {"key", own_}};
}

nlohmann::ordered_json BaseShelf::ListJson() const {
  auto list = nlohmann::ordered_json::array();
  for (const auto& [key, published] : registry_.bases()) {
    const BaseManifest& m = published.manifest;
    list.push_back({{"name", key.name},
                    {"version", key.version},
                    {"base_hash", ToHex(m.base_hash)},
                    {"bytes", m.base_bytes},
                    {"patch_bytes", m.patch_bytes},
                    {"patch_from", m.patch.bytes == 0 ? "" : ToHex(m.patch_from)},
                    {"licence", m.licence.text},
                    {"created", FormatUtc(m.created_unix_millis)},
                    {"expires", FormatUtc(m.expires_unix_millis)},
                    {"revoked", registry_.Revoked(key)},
                    {"manifest", ToHex(published.digest)}});
  }
  return list;
}

std::shared_ptr<const std::vector<Digest>> BaseShelf::BlocksOf(const Digest& content) {
  // First those that were looked into, then the lists, which need no looking; the newest first.
  for (const auto& [key, contents] : contents_) {
    if (const auto it = contents.find(content); it != contents.end()) return it->second;
  }
  const auto in_force = registry_.InForce();
  for (auto it = in_force.rbegin(); it != in_force.rend(); ++it) {
    const BaseManifest& m = (*it)->manifest;
    const BaseKey key{m.name.text, m.version};
    if (contents_.contains(key)) continue;
    auto contents = ContentsOf(m);
    if (!contents) {
      LogError("base_not_whole base={} reason={}", key.Text(), contents.error().ToString());
      contents_[key] = {};  // said once
      continue;
    }
    const auto& kept = contents_[key] = std::move(*contents);
    if (const auto found = kept.find(content); found != kept.end()) return found->second;
  }
  return nullptr;
}

}  // namespace tidegate::offshore
