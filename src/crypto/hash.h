// SHA-256 (FIPS 180-4) and HMAC-SHA-256 (RFC 2104). A library that cannot hash (memory gone) ends
// the process: no function here can return a wrong digest.
#pragma once

#include <initializer_list>
#include <memory>

#include "crypto/secret.h"

struct evp_md_ctx_st;

namespace tidegate::crypto {

// Streaming. One object is for one thread; after Finish it is ready for the next message.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  Sha256& Update(ByteSpan bytes);
  Digest Finish();

  // One-shot, of one or of several parts in order.
  static Digest Of(ByteSpan bytes);
  static Digest Of(std::initializer_list<ByteSpan> parts);

 private:
  struct Deleter {
    void operator()(evp_md_ctx_st* ctx) const;
  };
  void Restart();
  std::unique_ptr<evp_md_ctx_st, Deleter> ctx_;
};

// The tag is secret until it is published; compare it with Equal.
Secret<32> HmacSha256(ByteSpan key, ByteSpan message);

}  // namespace tidegate::crypto
