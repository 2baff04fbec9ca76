#include "offshore/enrolment.h"

#include "base/site_name.h"
#include "crypto/armor.h"
#include "crypto/document.h"

namespace tidegate::offshore {

static_assert(kMaxSiteName < protocols::kMaxName);

Result<federation::StoredSite> Approve(std::string_view request, const FederationConfig& config,
                                       const FederationKeys& keys, int64_t unix_millis) {
  TG_ASSIGN_OR_RETURN(const protocols::Signed document,
                      crypto::DecodeArmored("SITE REQUEST", request, "a site request"));
  TG_ASSIGN_OR_RETURN(
      const protocols::SiteRequest site,
      crypto::OpenSelfSigned(&protocols::SiteRequest::sign_key, crypto::domains::kSiteRequest,
                             document, "a site request"));
  if (!IsSiteName(site.site.text)) {
    return InvalidArgument("a site's name must be {}", kSiteNameRule);
  }
  protocols::SiteApproval approval;
  approval.federation = config.federation;
  approval.federation_name = config.name;
  approval.site = site.site;
  approval.site_sign_key = site.sign_key;
  approval.site_curve_key = site.curve_key;
  const ByteSpan own = keys.sign.verify_key().bytes();
  std::copy(own.begin(), own.end(), approval.coordinator_sign_key.begin());
  const auto curve = keys.curve.public_key();
  std::copy(curve.begin(), curve.end(), approval.coordinator_curve_key.begin());
  approval.address = config.address;
  approval.approved_unix_millis = unix_millis;
  federation::StoredSite stored;
  stored.name = site.site.text;
  stored.sign_key = site.sign_key;
  stored.curve_key = site.curve_key;
  stored.approved_unix_millis = unix_millis;
  TG_ASSIGN_OR_RETURN(stored.approval,
                      crypto::SignDocument(keys.sign, crypto::domains::kSiteApproval, approval));
  return stored;
}

Result<std::string> ArmoredApproval(const federation::StoredSite& site) {
  return crypto::EncodeArmor("SITE APPROVAL", protocols::Encode(site.approval));
}

}  // namespace tidegate::offshore
