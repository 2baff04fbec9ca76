// A folder of published bases: what a coordinator keeps in COORD/bases, what a gate keeps of it,
// and what may be carried to a site.
//
//   DIR/NAME@VERSION.base       the signed manifest        DIR/blocks/   the blocks
//   DIR/NAME@VERSION.revoked    the signed revocation
//
// Whoever reads it verifies every document with the coordinator's key; blocks are known by their
// hash. Not thread-safe.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bases/index.h"
#include "crypto/sign.h"

namespace tidegate::bases {

struct BaseKey {
  std::string name;
  uint32_t version = 0;
  auto operator<=>(const BaseKey&) const = default;
  std::string Text() const { return name + "@" + std::to_string(version); }
};
// "NAME" (version 0) or "NAME@VERSION"; kInvalidArgument for anything else.
Result<BaseKey> ParseBaseKey(std::string_view text);

struct Published {
  protocols::Signed document;
  protocols::BaseManifest manifest;
  Digest digest{};  // of the document's body: what the next version names as `previous`
};

class Registry {
 public:
  // Makes the folder. kUnauthenticated or kDataLoss, naming the file, for a document that is not
  // the coordinator's or not of this federation or name.
  static Result<Registry> Open(std::filesystem::path dir, const protocols::Id16& federation,
                               const crypto::VerifyKey& coordinator);
  // Open, but documents that are not good are removed and said in the log.
  static Result<Registry> OpenGood(std::filesystem::path dir, const protocols::Id16& federation,
                                   const crypto::VerifyKey& coordinator);
  // Open of a folder that is only read.
  static Result<Registry> Read(std::filesystem::path dir, const protocols::Id16& federation,
                               const crypto::VerifyKey& coordinator);

  // Why a document can't be taken: rule and reason.
  struct Refusal {
    std::string rule, reason;
  };
  // Verifies it, refuses what would go back (a version that is not above all known ones of the
  // name, another document of a known one, a `previous` that is not the version before), writes it
  // durably. OK for one that is known. An error is the disk's.
  Result<std::optional<Refusal>> Take(const protocols::Signed& document);
  // Likewise for a revocation, for good. `manifests` of revoked versions stay.
  Result<std::optional<Refusal>> TakeRevocation(const protocols::Signed& document);

  const std::map<BaseKey, Published>& bases() const { return bases_; }
  const std::map<BaseKey, protocols::Signed>& revocations() const { return revocations_; }
  bool Revoked(const BaseKey& key) const { return revocations_.contains(key); }
  bool RevokedHash(const Digest& base_hash) const { return revoked_hashes_.contains(base_hash); }
  // The highest version of a name, revoked or not; null: none.
  const Published* Newest(const std::string& name) const;
  // With version 0 the newest that is not revoked. kNotFound, kFailedPrecondition (revoked).
  Result<const Published*> Find(const BaseKey& key) const;
  // The newest kMaxBases that are in force, the oldest first within a name.
  std::vector<const Published*> InForce() const;

  const std::filesystem::path& dir() const { return dir_; }
  std::filesystem::path blocks_dir() const { return dir_ / "blocks"; }

 private:
  Registry(std::filesystem::path dir, const protocols::Id16& federation,
           const crypto::VerifyKey& coordinator)
      : dir_(std::move(dir)), federation_(federation), coordinator_(coordinator) {}
  Status Load(bool drop_bad);
  Status LoadDocument(const std::filesystem::path& path);
  Result<std::optional<Refusal>> Judge(const protocols::Signed& document, Published* out) const;

  std::filesystem::path dir_;
  protocols::Id16 federation_;
  crypto::VerifyKey coordinator_;
  std::map<BaseKey, Published> bases_;
  std::map<BaseKey, protocols::Signed> revocations_;
  std::set<Digest> revoked_hashes_;
};

}  // namespace tidegate::bases
