// Release: a manifest that a site's gate signed. Link may offer nothing else, and can make one only
// by verifying the signature, after a restart too. Immutable.
#pragma once

#include "base/status.h"
#include "crypto/sign.h"
#include "protocols/documents.h"

namespace tidegate::permit {

class Release {
 public:
  // kUnauthenticated for a signature that is not the site's, kDataLoss for a body that does not
  // decode, kPermissionDenied for another federation or site.
  static Result<Release> Verify(const protocols::Signed& document,
                                const crypto::VerifyKey& site_key,
                                const protocols::Id16& federation, const std::string& site);

  const protocols::ReleaseManifest& manifest() const { return manifest_; }
  const protocols::Signed& document() const { return document_; }
  const crypto::VerifyKey& site_key() const { return site_key_; }  // that verified it

 private:
  Release(protocols::Signed document, protocols::ReleaseManifest manifest,
          const crypto::VerifyKey& site_key)
      : document_(std::move(document)), manifest_(std::move(manifest)), site_key_(site_key) {}

  protocols::Signed document_;
  protocols::ReleaseManifest manifest_;
  crypto::VerifyKey site_key_;
};

}  // namespace tidegate::permit
