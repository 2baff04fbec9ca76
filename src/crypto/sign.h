// Ed25519 signatures (RFC 8032) with domain separation. What is signed is
//   domain || 0x00 || payload
// so a signature made for one purpose never verifies for another. The text of a C2SP signed note
// is signed bare, as that format wants; it may hold no 0x00, so it is never mistaken for the above.
// Thread-safety: const members may be called from several threads.
#pragma once

#include <array>
#include <string>

#include "crypto/secret.h"

namespace tidegate::permit {
class ReleasePass;  // permit/release_pass.h
}

namespace tidegate::crypto {

namespace internal {
struct BareEd25519;  // sign_internal.h
}

inline constexpr size_t kSignatureBytes = 64;
using Signature = std::array<uint8_t, kSignatureBytes>;

// What a signature is for. Only constants: "tidegate/v1/" and a name without 0x00. Not that of
// releases, which has a type of its own.
class SignDomain {
 public:
  consteval explicit SignDomain(const char* name) : name_(name) {
    constexpr std::string_view kPrefix = "tidegate/v1/";
    if (!name_.starts_with(kPrefix) || name_.size() == kPrefix.size()) {
      throw "a signature domain is \"tidegate/v1/\" and a name";
    }
    if (name_ == "tidegate/v1/release") throw "releases are signed with a permit::ReleasePass";
  }
  constexpr std::string_view name() const { return name_; }

 private:
  std::string_view name_;
};

// The domain of what may leave a site. Anybody verifies in it; SigningKey::SignRelease signs.
class ReleaseDomain {
 public:
  constexpr std::string_view name() const { return "tidegate/v1/release"; }
};

// One constant for each kind of signed document. The texts are for ever.
namespace domains {
inline constexpr ReleaseDomain kRelease{};
inline constexpr SignDomain kReceipt{"tidegate/v1/receipt"};
inline constexpr SignDomain kRound{"tidegate/v1/round"};
inline constexpr SignDomain kJob{"tidegate/v1/job"};
inline constexpr SignDomain kAdapter{"tidegate/v1/adapter"};
inline constexpr SignDomain kAbandon{"tidegate/v1/abandon"};
inline constexpr SignDomain kSiteRequest{"tidegate/v1/site-request"};
inline constexpr SignDomain kSiteApproval{"tidegate/v1/site-approval"};
inline constexpr SignDomain kExportApproval{"tidegate/v1/export-approval"};
inline constexpr SignDomain kBase{"tidegate/v1/base"};
inline constexpr SignDomain kBaseRevocation{"tidegate/v1/base-revocation"};
}  // namespace domains

// An Ed25519 public key. Its text is "ed25519:" and base64.
class VerifyKey {
 public:
  // kInvalidArgument for another length than 32, for a y coordinate that is not reduced and for the
  // points of small order, under which a signature can be valid for every message.
  static Result<VerifyKey> FromBytes(ByteSpan bytes);
  static Result<VerifyKey> FromText(std::string_view text);

  ByteSpan bytes() const { return bytes_; }
  std::string ToText() const;
  // SHA-256 of the 32 bytes: the key's name in records and on the wire.
  Digest Fingerprint() const;

  // kUnauthenticated when the signature is not this key's for this domain and payload, by the
  // equation without the cofactor, with S below the group's order and R reduced and not of small
  // order: there is one form of a signature.
  Status Verify(SignDomain domain, ByteSpan payload, ByteSpan signature) const;
  Status Verify(ReleaseDomain domain, ByteSpan payload, ByteSpan signature) const;
  // The same for the text of a signed note, and kInvalidArgument for a text that can't be one.
  Status VerifyNoteText(std::string_view text, ByteSpan signature) const;

  friend bool operator==(const VerifyKey&, const VerifyKey&) = default;  // public bytes

 private:
  friend class SigningKey;
  friend struct internal::BareEd25519;
  VerifyKey() = default;
  Status VerifyRaw(ByteSpan message, ByteSpan signature) const;
  std::array<uint8_t, 32> bytes_{};
};

// An Ed25519 private key. Move-only, zeroed on destruction.
class SigningKey {
 public:
  static Result<SigningKey> Generate();
  static Result<SigningKey> FromSeed(const Secret<32>& seed);

  const VerifyKey& verify_key() const { return verify_key_; }
  // For key files alone.
  const Secret<32>& seed() const { return seed_; }

  Result<Signature> Sign(SignDomain domain, ByteSpan payload) const;
  // In the domain of releases: for the gate's sealing alone.
  Result<Signature> SignRelease(const permit::ReleasePass& pass, ByteSpan payload) const;
  // For signed notes (checkpoint_note.h): printable text in lines, else kInvalidArgument.
  Result<Signature> SignNoteText(std::string_view text) const;

 private:
  friend struct internal::BareEd25519;
  SigningKey() = default;
  Result<Signature> SignRaw(ByteSpan message) const;
  Secret<32> seed_;
  VerifyKey verify_key_;
};

// "PREFIX:BASE64": how public keys are written.
std::string PublicKeyText(std::string_view prefix, ByteSpan bytes);

}  // namespace tidegate::crypto
