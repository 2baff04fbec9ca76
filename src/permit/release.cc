#include "permit/release.h"

namespace tidegate::permit {

Result<Release> Release::Verify(const protocols::Signed& document,
                                const crypto::VerifyKey& site_key,
                                const protocols::Id16& federation, const std::string& site) {
  TG_RETURN_IF_ERROR(
      site_key.Verify(crypto::domains::kRelease, document.body.items, document.signature));
  auto manifest = protocols::Decode<protocols::ReleaseManifest>(document.body.items);
  if (!manifest) return DataLoss("a release manifest: {}", manifest.error().reason);
  if (manifest->federation != federation || manifest->key.site.text != site) {
    return PermissionDenied("a release is for another federation or site");
  }
  return Release(document, std::move(*manifest), site_key);
}

}  // namespace tidegate::permit
