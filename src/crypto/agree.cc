#include "crypto/agree.h"

#include "crypto/evp.h"
#include "crypto/random.h"
#include "crypto/sign.h"

namespace tidegate::crypto {

using internal::LibraryFailure;
using internal::PkeyCtxPtr;
using internal::PkeyPtr;

namespace {

// The u coordinates, bit 255 aside, of the points whose order divides 8, on the curve and on its
// twist; 0 and 1 in both of their encodings.
constexpr std::string_view kSmallOrder[] = {
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
};

bool IsSmallOrder(std::array<uint8_t, 32> bytes) {
  bytes[31] &= 0x7f;
  return std::find(std::begin(kSmallOrder), std::end(kSmallOrder), ToHex(bytes)) !=
         std::end(kSmallOrder);
}

Error SmallOrder(ByteSpan key) {
  return InvalidArgument(
      "the x25519 public key {} is a point of small order and gives no secret; do not trust its "
      "sender",
      PublicKeyText("x25519", key));
}

}  // namespace

Result<AgreePublicKey> AgreePublicKey::FromBytes(ByteSpan bytes) {
  AgreePublicKey key;
  if (bytes.size() != key.bytes_.size()) {
    return InvalidArgument("an x25519 public key has 32 bytes, this one has {}", bytes.size());
  }
  std::copy(bytes.begin(), bytes.end(), key.bytes_.begin());
  if (IsSmallOrder(key.bytes_)) return SmallOrder(bytes);
  return key;
}

Result<AgreeSecretKey> AgreeSecretKey::Generate() {
  TG_ASSIGN_OR_RETURN(const Secret<32> secret, RandomSecret<32>());
  return FromBytes(secret.reveal());
}

Result<AgreeSecretKey> AgreeSecretKey::FromBytes(ByteSpan bytes) {
  AgreeSecretKey key;
  TG_ASSIGN_OR_RETURN(key.secret_, MakeSecret<32>(bytes, "an x25519 secret key"));
  const PkeyPtr pkey(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, key.secret_.reveal().data(), 32));
  size_t size = key.public_key_.bytes_.size();
  if (!pkey || EVP_PKEY_get_raw_public_key(pkey.get(), key.public_key_.bytes_.data(), &size) != 1 ||
      size != 32) {
    return LibraryFailure("deriving an x25519 public key");
  }
  return key;
}

Result<Secret<32>> AgreeSecretKey::Agree(const AgreePublicKey& peer) const {
  const PkeyPtr own(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, secret_.reveal().data(), 32));
  const PkeyPtr other(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, peer.bytes().data(), 32));
  if (!own || !other) return LibraryFailure("loading an x25519 key");
  const PkeyCtxPtr ctx(EVP_PKEY_CTX_new(own.get(), nullptr));
  if (!ctx || EVP_PKEY_derive_init(ctx.get()) != 1 ||
      EVP_PKEY_derive_set_peer(ctx.get(), other.get()) != 1) {
    return LibraryFailure("preparing x25519");
  }
  Secret<32> shared;
  size_t size = 32;
  const bool derived =
      EVP_PKEY_derive(ctx.get(), shared.reveal_mutable().data(), &size) == 1 && size == 32;
  // No AgreePublicKey gives it, and OpenSSL refuses it itself; RFC 9180 7.1.4 makes it ours to
  // check.
  const Secret<32> zero;
  if (!derived || Equal(shared.reveal(), zero.reveal())) {
    internal::DropLibraryErrors();
    return SmallOrder(peer.bytes());
  }
  return shared;
}

}  // namespace tidegate::crypto
