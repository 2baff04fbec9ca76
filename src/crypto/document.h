// Signed documents (protocols/documents.h): made and opened. Verify first, decode after.
// Thread-safety: pure functions.
#pragma once

#include "base/status.h"
#include "crypto/armor.h"
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

// A document that holds its signer's key, as a request or an approval does: look, then verify, then
// believe. That it is the key it should be is for the caller, or for people, to compare.
template <typename Document>
Result<Document> OpenSelfSigned(protocols::PublicKey Document::*signer, SignDomain domain,
                                const protocols::Signed& document, std::string_view what) {
  const auto claimed = protocols::Decode<Document>(document.body.items);
  if (!claimed) return InvalidArgument("{}: {}", what, claimed.error().reason);
  TG_ASSIGN_OR_RETURN(const VerifyKey key, VerifyKey::FromBytes((*claimed).*signer));
  return OpenDocument<Document>(key, domain, document, what);
}

// The document in armour of this label, not verified. kInvalidArgument for any other text.
inline Result<protocols::Signed> DecodeArmored(std::string_view label, std::string_view text,
                                               std::string_view what) {
  const auto bytes = DecodeArmor(label, text);
  if (!bytes) return Unexpected(bytes.error().WithContext(what));
  auto document = protocols::Decode<protocols::Signed>(*bytes);
  if (!document) return InvalidArgument("{}: {}", what, document.error().reason);
  return std::move(*document);
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
