// Random bytes for keys, from the operating system by way of OpenSSL. Thread-safe.
#pragma once

#include "crypto/secret.h"

namespace tidegate::crypto {

// Fills `out`. kInternal when no randomness is to be had; the caller must give up what it was
// doing, `out` is then zeroed.
Status FillRandom(std::span<uint8_t> out);

template <size_t N>
Result<Secret<N>> RandomSecret() {
  Secret<N> secret;
  TG_RETURN_IF_ERROR(FillRandom(secret.reveal_mutable()));
  return secret;
}

}  // namespace tidegate::crypto
