#include "crypto/kdf.h"

namespace tidegate::crypto {

Secret<32> HkdfExtract(ByteSpan salt, ByteSpan input_key) { return HmacSha256(salt, input_key); }

namespace {

// T(i) = HMAC(PRK, T(i-1) || info || i)
Secret<32> ExpandBlock(ByteSpan key, ByteSpan previous, ByteSpan info, uint8_t counter) {
  SecretBytes message(previous.size() + info.size() + 1);
  auto out = message.reveal_mutable();
  std::copy(previous.begin(), previous.end(), out.begin());
  std::copy(info.begin(), info.end(), out.begin() + previous.size());
  out.back() = counter;
  return HmacSha256(key, message.reveal());
}

}  // namespace

Result<SecretBytes> HkdfExpand(ByteSpan pseudo_random_key, ByteSpan info, size_t length) {
  if (length > kHkdfMaxBytes) {
    return InvalidArgument("{} bytes were asked of HKDF-SHA-256, the limit is {}", length,
                           kHkdfMaxBytes);
  }
  SecretBytes result(length);
  auto out = result.reveal_mutable();
  Secret<32> block;
  ByteSpan previous;
  for (size_t done = 0, i = 1; done < length; ++i) {
    block = ExpandBlock(pseudo_random_key, previous, info, static_cast<uint8_t>(i));
    previous = block.reveal();
    const size_t n = std::min<size_t>(32, length - done);
    std::copy_n(previous.begin(), n, out.begin() + done);
    done += n;
  }
  return result;
}

Secret<32> DeriveKey(ByteSpan salt, ByteSpan input_key, ByteSpan info) {
  const Secret<32> prk = HkdfExtract(salt, input_key);
  return ExpandBlock(prk.reveal(), {}, info, 1);
}

}  // namespace tidegate::crypto
