// Internal to src/crypto, the only header that includes OpenSSL: owners for its objects and what a
// failed call means. Nothing outside this module includes it.
#pragma once

#include <openssl/evp.h>

#include <memory>
#include <string_view>

#include "base/status.h"

namespace tidegate::crypto::internal {

struct EvpDeleter {
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(EVP_PKEY_CTX* p) const { EVP_PKEY_CTX_free(p); }
  void operator()(EVP_MD_CTX* p) const { EVP_MD_CTX_free(p); }
};
using PkeyPtr = std::unique_ptr<EVP_PKEY, EvpDeleter>;
using PkeyCtxPtr = std::unique_ptr<EVP_PKEY_CTX, EvpDeleter>;
using MdCtxPtr = std::unique_ptr<EVP_MD_CTX, EvpDeleter>;

// Empties OpenSSL's error queue of this thread and returns kInternal "WHAT failed: REASON".
Error LibraryFailure(std::string_view what);

// Drops queued errors after a refusal that is a normal outcome (a bad signature, a bad tag).
void DropLibraryErrors();

// For calls that fail only when memory is gone or the library is broken, in functions that have no
// way to say so (hashing): ends the process with a message rather than return a wrong digest.
void Require(bool ok, std::string_view what);

}  // namespace tidegate::crypto::internal
