#include "crypto/evp.h"

#include <openssl/err.h>

#include <cstdio>
#include <cstdlib>

namespace tidegate::crypto::internal {

Error LibraryFailure(std::string_view what) {
  char reason[256] = "no reason given";
  if (const unsigned long code = ERR_peek_last_error(); code != 0) {
    ERR_error_string_n(code, reason, sizeof reason);
  }
  ERR_clear_error();
  return Internal("{} failed in OpenSSL ({}); check the installed libssl3", what, reason);
}

void DropLibraryErrors() { ERR_clear_error(); }

void Require(bool ok, std::string_view what) {
  if (ok) return;
  char reason[256] = "no reason given";
  if (const unsigned long code = ERR_peek_last_error(); code != 0) {
    ERR_error_string_n(code, reason, sizeof reason);
  }
  std::fprintf(stderr, "fatal: %.*s failed in OpenSSL (%s)\n", static_cast<int>(what.size()),
               what.data(), reason);
  std::abort();
}

}  // namespace tidegate::crypto::internal
