// Enrolment, the coordinator's half: a site's signed request becomes a signed approval.
// docs/formats/site-enrolment.md. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "federation/server/store.h"
#include "offshore/federation_config.h"

namespace tidegate::offshore {

// Verifies that the request (armoured SITE REQUEST) is signed by the key in it, and approves.
Result<federation::StoredSite> Approve(std::string_view request, const FederationConfig& config,
                                       const FederationKeys& keys, int64_t unix_millis);

// The armoured SITE APPROVAL.
Result<std::string> ArmoredApproval(const federation::StoredSite& site);

}  // namespace tidegate::offshore
