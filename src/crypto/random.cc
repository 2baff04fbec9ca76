#include "crypto/random.h"

#include <openssl/rand.h>

#include <limits>

#include "crypto/evp.h"

namespace tidegate::crypto {

Status FillRandom(std::span<uint8_t> out) {
  constexpr size_t kMost = std::numeric_limits<int>::max();
  if (out.size() > kMost) {
    return InvalidArgument("{} random bytes were asked for at once, the limit is {}", out.size(),
                           kMost);
  }
  if (RAND_bytes(out.data(), static_cast<int>(out.size())) != 1) {
    Cleanse(out.data(), out.size());
    return internal::LibraryFailure("the random number generator");
  }
  return OkStatus();
}

}  // namespace tidegate::crypto
