#include "crypto/hpke.h"

#include <limits>

#include "crypto/gcm.h"
#include "crypto/hpke_internal.h"
#include "crypto/kdf.h"

namespace tidegate::crypto {

namespace internal {

struct HpkeState {
  Bytes suite_id;
  Gcm gcm;
  Secret<12> base_nonce;
  Secret<32> exporter_secret;
  uint64_t sequence = 0;
};

std::array<uint8_t, 12> HpkeNonce(const Secret<12>& base_nonce, uint64_t sequence) {
  std::array<uint8_t, 12> nonce;
  std::copy_n(base_nonce.reveal().begin(), nonce.size(), nonce.begin());
  for (size_t i = 0; i < 8; ++i) nonce[11 - i] ^= static_cast<uint8_t>(sequence >> (8 * i));
  return nonce;
}

namespace {

constexpr uint16_t kKemId = 0x0020;  // DHKEM(X25519, HKDF-SHA256)
constexpr uint16_t kKdfId = 0x0001;  // HKDF-SHA256
constexpr uint8_t kModeBase = 0x00;

void Append(Bytes* out, ByteSpan bytes) { out->insert(out->end(), bytes.begin(), bytes.end()); }
void AppendBe16(Bytes* out, uint16_t value) {
  out->push_back(static_cast<uint8_t>(value >> 8));
  out->push_back(static_cast<uint8_t>(value));
}

Bytes KemSuiteId() {
  Bytes id;
  Append(&id, AsBytes("KEM"));
  AppendBe16(&id, kKemId);
  return id;
}

Bytes HpkeSuiteId(HpkeAead aead) {
  Bytes id;
  Append(&id, AsBytes("HPKE"));
  AppendBe16(&id, kKemId);
  AppendBe16(&id, kKdfId);
  AppendBe16(&id, static_cast<uint16_t>(aead));
  return id;
}

// RFC 9180, section 4.
Secret<32> LabeledExtract(ByteSpan suite_id, ByteSpan salt, std::string_view label, ByteSpan ikm) {
  constexpr std::string_view kVersion = "HPKE-v1";
  SecretBytes labeled(kVersion.size() + suite_id.size() + label.size() + ikm.size());
  auto out = labeled.reveal_mutable().begin();
  out = std::copy(kVersion.begin(), kVersion.end(), out);
  out = std::copy(suite_id.begin(), suite_id.end(), out);
  out = std::copy(label.begin(), label.end(), out);
  std::copy(ikm.begin(), ikm.end(), out);
  return HkdfExtract(salt, labeled.reveal());
}

Result<SecretBytes> LabeledExpand(ByteSpan suite_id, const Secret<32>& prk, std::string_view label,
                                  ByteSpan info, size_t length) {
  if (length > kHkdfMaxBytes) {
    return InvalidArgument("{} bytes were asked of an HPKE export, the limit is {}", length,
                           kHkdfMaxBytes);
  }
  Bytes labeled;
  AppendBe16(&labeled, static_cast<uint16_t>(length));
  Append(&labeled, AsBytes("HPKE-v1"));
  Append(&labeled, suite_id);
  Append(&labeled, AsBytes(label));
  Append(&labeled, info);
  return HkdfExpand(prk.reveal(), labeled, length);
}

// Section 4.1: ExtractAndExpand(dh, enc || pkR).
Result<SecretBytes> KemSharedSecret(const Secret<32>& dh, ByteSpan enc, ByteSpan recipient) {
  const Bytes suite_id = KemSuiteId();
  const Secret<32> prk = LabeledExtract(suite_id, {}, "eae_prk", dh.reveal());
  Bytes context;
  Append(&context, enc);
  Append(&context, recipient);
  return LabeledExpand(suite_id, prk, "shared_secret", context, 32);
}

// Section 5.1, mode_base.
Result<std::unique_ptr<HpkeState>> KeySchedule(HpkeAead aead, const SecretBytes& shared_secret,
                                               ByteSpan info, Gcm::Direction direction) {
  Bytes suite_id = HpkeSuiteId(aead);
  Bytes context;
  context.push_back(kModeBase);
  const Secret<32> psk_id_hash = LabeledExtract(suite_id, {}, "psk_id_hash", {});
  const Secret<32> info_hash = LabeledExtract(suite_id, {}, "info_hash", info);
  Append(&context, psk_id_hash.reveal());
  Append(&context, info_hash.reveal());

  const Secret<32> secret = LabeledExtract(suite_id, shared_secret.reveal(), "secret", {});
  const size_t key_bytes = aead == HpkeAead::kAes128Gcm ? 16 : 32;
  TG_ASSIGN_OR_RETURN(const SecretBytes key,
                      LabeledExpand(suite_id, secret, "key", context, key_bytes));
  TG_ASSIGN_OR_RETURN(const SecretBytes nonce,
                      LabeledExpand(suite_id, secret, "base_nonce", context, kGcmNonceBytes));
  TG_ASSIGN_OR_RETURN(const SecretBytes exporter,
                      LabeledExpand(suite_id, secret, "exp", context, 32));
  TG_ASSIGN_OR_RETURN(Gcm gcm, Gcm::Create(key.reveal(), direction));
  TG_ASSIGN_OR_RETURN(auto base_nonce, MakeSecret<12>(nonce.reveal(), "the HPKE base nonce"));
  TG_ASSIGN_OR_RETURN(auto exporter_secret,
                      MakeSecret<32>(exporter.reveal(), "the HPKE exporter secret"));
  return std::make_unique<HpkeState>(HpkeState{
      std::move(suite_id), std::move(gcm), std::move(base_nonce), std::move(exporter_secret), 0});
}

Status CheckSequence(const HpkeState& state) {
  if (state.sequence != std::numeric_limits<uint64_t>::max()) return OkStatus();
  return ResourceExhausted("the HPKE context has no message numbers left; set up a new one");
}

}  // namespace

Result<HpkeSenderSetup> SetupSenderWith(HpkeAead aead, const AgreePublicKey& recipient,
                                        ByteSpan info, const AgreeSecretKey& ephemeral) {
  TG_ASSIGN_OR_RETURN(const Secret<32> dh, ephemeral.Agree(recipient));
  HpkeEnc enc;
  std::copy_n(ephemeral.public_key().bytes().begin(), enc.size(), enc.begin());
  TG_ASSIGN_OR_RETURN(const SecretBytes shared, KemSharedSecret(dh, enc, recipient.bytes()));
  TG_ASSIGN_OR_RETURN(auto state, KeySchedule(aead, shared, info, Gcm::Direction::kSeal));
  return HpkeSenderSetup{enc, HpkeSender(std::move(state))};
}

Result<HpkeRecipient> SetupRecipientWith(HpkeAead aead, ByteSpan enc,
                                         const AgreeSecretKey& recipient, ByteSpan info) {
  TG_ASSIGN_OR_RETURN(const AgreePublicKey ephemeral, AgreePublicKey::FromBytes(enc));
  TG_ASSIGN_OR_RETURN(const Secret<32> dh, recipient.Agree(ephemeral));
  TG_ASSIGN_OR_RETURN(const SecretBytes shared,
                      KemSharedSecret(dh, enc, recipient.public_key().bytes()));
  TG_ASSIGN_OR_RETURN(auto state, KeySchedule(aead, shared, info, Gcm::Direction::kOpen));
  return HpkeRecipient(std::move(state));
}

}  // namespace internal

using internal::HpkeAead;
using internal::HpkeNonce;

HpkeContext::HpkeContext(std::unique_ptr<internal::HpkeState> state) : state_(std::move(state)) {}
HpkeContext::HpkeContext(HpkeContext&&) noexcept = default;
HpkeContext& HpkeContext::operator=(HpkeContext&&) noexcept = default;
HpkeContext::~HpkeContext() = default;
HpkeSender::HpkeSender(std::unique_ptr<internal::HpkeState> state)
    : HpkeContext(std::move(state)) {}
HpkeRecipient::HpkeRecipient(std::unique_ptr<internal::HpkeState> state)
    : HpkeContext(std::move(state)) {}

Result<SecretBytes> HpkeContext::Export(ByteSpan exporter_context, size_t length) const {
  return internal::LabeledExpand(state_->suite_id, state_->exporter_secret, "sec", exporter_context,
                                 length);
}

Result<Bytes> HpkeSender::Seal(ByteSpan aad, ByteSpan plaintext) {
  TG_RETURN_IF_ERROR(internal::CheckSequence(*state_));
  Bytes out(plaintext.size() + internal::kGcmTagBytes);
  std::copy(plaintext.begin(), plaintext.end(), out.begin());
  // Counted before use: a failed call burns its number.
  const auto nonce = HpkeNonce(state_->base_nonce, state_->sequence++);
  TG_RETURN_IF_ERROR(state_->gcm.SealInPlace(nonce, aad, out, nullptr));
  return out;
}

Result<Bytes> HpkeRecipient::Open(ByteSpan aad, ByteSpan sealed) {
  TG_RETURN_IF_ERROR(internal::CheckSequence(*state_));
  Bytes out(sealed.size() - std::min(sealed.size(), internal::kGcmTagBytes));
  const auto nonce = HpkeNonce(state_->base_nonce, state_->sequence);
  TG_RETURN_IF_ERROR(state_->gcm.Open(nonce, aad, sealed, out.data()));
  ++state_->sequence;
  return out;
}

Result<HpkeSenderSetup> SetupSender(const AgreePublicKey& recipient, ByteSpan info) {
  TG_ASSIGN_OR_RETURN(const AgreeSecretKey ephemeral, AgreeSecretKey::Generate());
  return internal::SetupSenderWith(HpkeAead::kAes256Gcm, recipient, info, ephemeral);
}

Result<HpkeRecipient> SetupRecipient(ByteSpan enc, const AgreeSecretKey& recipient, ByteSpan info) {
  return internal::SetupRecipientWith(HpkeAead::kAes256Gcm, enc, recipient, info);
}

}  // namespace tidegate::crypto
