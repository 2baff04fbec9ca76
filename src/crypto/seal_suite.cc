#include "crypto/seal_suite.h"

#include <cstdlib>

#include "crypto/gcm.h"
#include "crypto/hpke.h"

namespace tidegate::crypto {

namespace {

using internal::Gcm;
using internal::GcmNonce;

// STREAM: an 11-byte big-endian counter and the flag of the last chunk.
GcmNonce StreamNonce(uint64_t number, bool last) {
  GcmNonce nonce{};
  for (size_t i = 0; i < 8; ++i) nonce[10 - i] = static_cast<uint8_t>(number >> (8 * i));
  nonce[11] = last ? 1 : 0;
  return nonce;
}

class GcmChunkCipher final : public ChunkCipher {
 public:
  explicit GcmChunkCipher(Gcm gcm) : gcm_(std::move(gcm)) {}

  Result<Digest> Seal(uint64_t number, bool last, std::span<uint8_t> buffer) override {
    Sha256 hash;
    TG_RETURN_IF_ERROR(gcm_.SealInPlace(StreamNonce(number, last), {}, buffer, &hash));
    return hash.Finish();
  }

  Result<Bytes> Open(uint64_t number, bool last, ByteSpan sealed) override {
    Bytes out(sealed.size() - std::min(sealed.size(), internal::kGcmTagBytes));
    TG_RETURN_IF_ERROR(gcm_.Open(StreamNonce(number, last), {}, sealed, out.data()));
    return out;
  }

 private:
  Gcm gcm_;
};

Bytes Concat(std::string_view label, ByteSpan tail) {
  Bytes out(label.begin(), label.end());
  out.insert(out.end(), tail.begin(), tail.end());
  return out;
}

class Tg1 final : public SealSuite {
 public:
  Result<SealSession> Begin(const AgreePublicKey& recipient, ByteSpan info,
                            ByteSpan aad) const override {
    TG_ASSIGN_OR_RETURN(HpkeSenderSetup setup, SetupSender(recipient, FullInfo(info)));
    return Derive(setup.context, Bytes(setup.enc.begin(), setup.enc.end()), aad,
                  Gcm::Direction::kSeal);
  }

  Result<SealSession> Resume(ByteSpan enc, const AgreeSecretKey& recipient, ByteSpan info,
                             ByteSpan aad) const override {
    TG_ASSIGN_OR_RETURN(const HpkeRecipient context,
                        SetupRecipient(enc, recipient, FullInfo(info)));
    return Derive(context, Bytes(enc.begin(), enc.end()), aad, Gcm::Direction::kOpen);
  }

 private:
  // The suite's name in the info keeps the same recipient key apart between suites.
  static Bytes FullInfo(ByteSpan info) { return Concat("tidegate/v1/seal/TG1\n", info); }

  static Result<SealSession> Derive(const HpkeContext& context, Bytes enc, ByteSpan aad,
                                    Gcm::Direction direction) {
    const Digest aad_hash = Sha256::Of(aad);
    TG_ASSIGN_OR_RETURN(const SecretBytes key,
                        context.Export(Concat("tidegate/v1/seal key\n", aad_hash), 32));
    TG_ASSIGN_OR_RETURN(const SecretBytes commitment,
                        context.Export(Concat("tidegate/v1/seal commitment\n", aad_hash), 32));
    TG_ASSIGN_OR_RETURN(Gcm gcm, Gcm::Create(key.reveal(), direction));
    SealSession session;
    session.enc = std::move(enc);
    std::copy_n(commitment.reveal().begin(), session.commitment.size(), session.commitment.begin());
    session.cipher = std::make_unique<GcmChunkCipher>(std::move(gcm));
    return session;
  }
};

}  // namespace

Result<Suite> ParseSuite(uint8_t byte) {
  if (byte == static_cast<uint8_t>(Suite::kTg1)) return Suite::kTg1;
  return Unsupported(
      "cipher suite {} is not known to this version, which has 1 (TG1: X25519, HKDF-SHA256, "
      "AES-256-GCM); sender and recipient must be set to the same suite",
      byte);
}

const SealSuite& FindSuite(Suite suite) {
  static const Tg1 tg1;
  switch (suite) {
    case Suite::kTg1:
      return tg1;
  }
  std::abort();  // not a Suite: ParseSuite makes no other
}

}  // namespace tidegate::crypto
