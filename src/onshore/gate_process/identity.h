// Who this gate is: what it reads from the site's folder before its walls go up.
#pragma once

#include <filesystem>
#include <string>

#include "base/status.h"
#include "crypto/sign.h"
#include "gate/policy.h"
#include "protocols/documents.h"

namespace tidegate::onshore {

struct GateIdentity {
  crypto::SigningKey key;            // keys/gate.key
  gate::Policy policy;               // policy.toml
  protocols::SiteApproval approval;  // approval, signed by the key that the policy pins
};

// kUnauthenticated when the approval is not signed by the policy's coordinator, kFailedPrecondition
// when it is for another key, federation or site than this folder's.
Result<GateIdentity> LoadIdentity(const std::filesystem::path& site);

}  // namespace tidegate::onshore
