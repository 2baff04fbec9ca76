#include "offshore/enrolment.h"

#include "crypto/armor.h"
#include "crypto/document.h"

namespace tidegate::offshore {

Status CheckSiteName(std::string_view name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  bool good = !name.empty() && name.size() < protocols::kMaxName && plain(name[0]);
  for (const char c : name) good = good && (plain(c) || c == '-' || c == '_');
  if (good) return OkStatus();
  return InvalidArgument(
      "a site's name has 1 … {} of a-z 0-9 - _ and begins with a letter or digit",
      protocols::kMaxName - 1);
}

Result<federation::StoredSite> Approve(std::string_view request, const FederationConfig& config,
                                       const FederationKeys& keys, int64_t unix_millis) {
  TG_ASSIGN_OR_RETURN(const Bytes bytes, crypto::DecodeArmor("SITE REQUEST", request));
  const auto document = protocols::Decode<protocols::Signed>(bytes);
  if (!document) return InvalidArgument("a site request: {}", document.error().reason);
  // The key that the request must be signed with is in it: look, then verify, then believe.
  const auto claimed = protocols::Decode<protocols::SiteRequest>(document->body.items);
  if (!claimed) return InvalidArgument("a site request: {}", claimed.error().reason);
  TG_ASSIGN_OR_RETURN(const crypto::VerifyKey key, crypto::VerifyKey::FromBytes(claimed->sign_key));
  TG_ASSIGN_OR_RETURN(const protocols::SiteRequest site,
                      crypto::OpenDocument<protocols::SiteRequest>(
                          key, crypto::domains::kSiteRequest, *document, "a site request"));
  TG_RETURN_IF_ERROR(CheckSiteName(site.site.text));
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
