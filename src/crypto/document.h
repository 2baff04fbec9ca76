// Signed documents (protocols/documents.h): made and opened. Verify first, decode after.
// Thread-safety: pure functions.
#pragma once

#include "base/status.h"
#include "crypto/hash.h"
#include "crypto/sign.h"
#include "protocols/documents.h"

namespace tidegate::crypto {

template <typename Document>
Result<protocols::Signed> SignDocument(const SigningKey& key, SignDomain domain,
                                       const Document& document) {
  protocols::Signed out;
  out.body.items = protocols::Encode(document);
  TG_ASSIGN_OR_RETURN(out.signature, key.Sign(domain, out.body.items));
  return out;
}

// kUnauthenticated for another key or domain, kInvalidArgument for a body that does not decode.
// `what` names the document in errors.
template <typename Document>
Result<Document> OpenDocument(const VerifyKey& key, SignDomain domain,
                              const protocols::Signed& document, std::string_view what) {
  if (const Status status = key.Verify(domain, document.body.items, document.signature);
      !status.ok()) {
    return Unexpected(status.WithContext(what));
  }
  auto decoded = protocols::Decode<Document>(document.body.items);
  if (!decoded) return InvalidArgument("{}: {}", what, decoded.error().reason);
  return std::move(*decoded);
}

// SHA-256 of the body: how documents name each other.
inline Digest DocumentDigest(const protocols::Signed& document) {
  return Sha256::Of(document.body.items);
}

// The first 16 bytes of it: how a job is named.
inline protocols::Id16 JobIdOf(const protocols::Signed& job_manifest) {
  const Digest digest = DocumentDigest(job_manifest);
  protocols::Id16 id;
  std::copy_n(digest.begin(), id.size(), id.begin());
  return id;
}

}  // namespace tidegate::crypto
