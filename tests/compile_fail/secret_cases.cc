// One attempt each at what secrets forbid; as cases.cc.
#include <iostream>

#include "base/log.h"
#include "crypto/sign.h"

namespace tidegate {

struct Given {
  crypto::Secret<32>& secret;
  crypto::SecretBytes& secret_bytes;
  const crypto::SigningKey& key;
  Bytes bytes;
};

bool Attempt(Given given) {
#if defined(CASE_CONTROL)
  crypto::Secret<32> moved = std::move(given.secret);
  const crypto::SecretBytes taken(std::move(given.bytes));
  LogInfo("{}", taken.size());
  std::cout << given.key.verify_key().ToText();
  const ByteSpan bytes = moved.Clone().reveal();
  return crypto::Equal(bytes, given.secret_bytes.reveal());
#elif defined(CASE_PRINT_SECRET)
  std::cout << given.secret;
#elif defined(CASE_PRINT_SECRET_BYTES)
  std::cout << given.secret_bytes;
#elif defined(CASE_PRINT_SIGNING_KEY)
  std::cout << given.key;
#elif defined(CASE_FORMAT_SECRET)
  LogInfo("{}", given.secret);
#elif defined(CASE_FORMAT_SECRET_BYTES)
  LogInfo("{}", given.secret_bytes);
#elif defined(CASE_FORMAT_SIGNING_KEY)
  LogInfo("{}", given.key);
#elif defined(CASE_COPY_SECRET)
  crypto::Secret<32> copy = given.secret;
#elif defined(CASE_COPY_SECRET_BYTES)
  crypto::SecretBytes copy = given.secret_bytes;
#elif defined(CASE_COPY_SIGNING_KEY)
  crypto::SigningKey copy = given.key;
#elif defined(CASE_COMPARE_SECRET)
  return given.secret == given.secret;
#elif defined(CASE_COMPARE_SECRET_BYTES)
  return given.secret_bytes == given.secret_bytes;
#elif defined(CASE_ORDER_SECRET)
  return given.secret < given.secret;
#elif defined(CASE_SECRET_AS_SPAN)
  const ByteSpan bytes = given.secret;
#elif defined(CASE_SECRET_AS_BYTES)
  const Bytes bytes = given.secret_bytes;
#elif defined(CASE_SECRET_FROM_BYTES)
  const crypto::SecretBytes secret = Bytes(given.bytes);
#elif defined(CASE_SECRET_OF_A_COPY)
  const crypto::SecretBytes secret(given.bytes);
#else
#error "no such case"
#endif
  return false;
}

}  // namespace tidegate
