#include "onshore/gate_process/identity.h"

#include <algorithm>

#include "base/file.h"
#include "crypto/document.h"
#include "crypto/keyfile.h"

namespace tidegate::onshore {
namespace {

Result<protocols::SiteApproval> LoadApproval(const std::filesystem::path& path,
                                             const gate::Policy& policy) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, protocols::kMaxArmored));
  TG_ASSIGN_OR_RETURN(const protocols::Signed document,
                      crypto::DecodeArmored("SITE APPROVAL", text, path.native()));
  return crypto::OpenDocument<protocols::SiteApproval>(
      *policy.coordinator_key, crypto::domains::kSiteApproval, document, path.native());
}

}  // namespace

Result<GateIdentity> LoadIdentity(const std::filesystem::path& site) {
  TG_ASSIGN_OR_RETURN(crypto::SigningKey key, crypto::ReadSigningKey(site / "keys" / "gate.key"));
  const std::filesystem::path policy_path = site / "policy.toml";
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(policy_path, gate::kMaxPolicyBytes));
  TG_ASSIGN_OR_RETURN(gate::Policy policy, gate::ParsePolicy(text, policy_path.native()));
  TG_ASSIGN_OR_RETURN(protocols::SiteApproval approval, LoadApproval(site / "approval", policy));
  const ByteSpan own = key.verify_key().bytes();
  if (!std::equal(own.begin(), own.end(), approval.site_sign_key.begin())) {
    return FailedPrecondition("the approval is for another signing key than keys/gate.key");
  }
  const ByteSpan pinned = policy.coordinator_key->bytes();
  if (approval.federation != policy.federation ||
      !std::equal(pinned.begin(), pinned.end(), approval.coordinator_sign_key.begin())) {
    return FailedPrecondition("the approval is for another federation than the policy's");
  }
  return GateIdentity{std::move(key), std::move(policy), std::move(approval)};
}

}  // namespace tidegate::onshore
