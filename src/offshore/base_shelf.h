// The bases that a coordinator has published, as it hands them out: the registry in COORD/bases and
// the contents that sites may ask for. The blocks are put there by `tidegate base publish`, which
// takes the folder's lock; a coordinator only reads them. Not thread-safe.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "bases/registry.h"
#include "blocks/block_store.h"
#include "crypto/sign.h"

namespace tidegate::offshore {

class BaseShelf {
 public:
  static Result<BaseShelf> Open(const std::filesystem::path& dir, const protocols::Id16& federation,
                                const crypto::VerifyKey& own);

  // Signs the next version of what a request describes: {"name", "licence", "expires_unix_millis",
  // "previous", "base_hash", "base_bytes", "index": {"bytes", "blocks"}, and with a patch
  // "patch_from", "patch_bytes", "patch"}. kFailedPrecondition when `previous` is not the newest
  // version's digest, kNotFound for a block that is not in the folder.
  Result<const bases::Published*> Publish(const nlohmann::json& request,
                                          const crypto::SigningKey& key, int64_t now);
  // {"base": "NAME@VERSION", "reason"}.
  Result<bases::BaseKey> Revoke(const nlohmann::json& request, const crypto::SigningKey& key,
                                int64_t now);
  nlohmann::ordered_json ListJson() const;
  // {"dir", "federation", "key"}: where the publisher puts blocks, which coordinators may share.
  nlohmann::ordered_json WhereJson() const;

  const bases::Registry& registry() const { return registry_; }

  // The ids of a content's blocks, of a base in force; null: there is no such content.
  std::shared_ptr<const std::vector<Digest>> BlocksOf(const Digest& content);
  // Verified.
  Result<Bytes> Block(const Digest& id);

 private:
  BaseShelf(bases::Registry registry, const protocols::Id16& federation, std::string own)
      : registry_(std::move(registry)), federation_(federation), own_(std::move(own)) {}
  using Contents = std::map<Digest, std::shared_ptr<const std::vector<Digest>>>;
  Result<Contents> ContentsOf(const protocols::BaseManifest& manifest);
  Result<Bytes> List(const protocols::BaseList& list);

  bases::Registry registry_;
  protocols::Id16 federation_;
  std::string own_;                              // the coordinator's key
  std::map<bases::BaseKey, Contents> contents_;  // of those that were asked for
};

}  // namespace tidegate::offshore
