// Cleared<T>: the right to let one particular value out of the gate. Only gate::Review mints it,
// after every rule of the policy has agreed; only gate::Sealing consumes it, once, for what it was
// given. The friends here and in release_pass.h are all who take part in letting data out.
// Not thread-safe.
#pragma once

#include <utility>

#include "base/bytes.h"
#include "base/status.h"
#include "protocols/documents.h"

namespace tidegate::gate {
class Review;
class Sealing;
}  // namespace tidegate::gate

namespace tidegate::permit {

// What a permit is for, and for nothing else.
struct Binding {
  protocols::UpdateKey key;
  uint64_t bytes = 0;
  Digest digest{};  // SHA-256 of the value's bytes
  bool operator==(const Binding&) const = default;
};

template <typename T>
class Cleared {
 public:
  Cleared(Cleared&& other) noexcept
      : value_(std::move(other.value_)),
        binding_(std::move(other.binding_)),
        spent_(std::exchange(other.spent_, true)) {}
  Cleared& operator=(Cleared&&) = delete;
  Cleared(const Cleared&) = delete;
  Cleared& operator=(const Cleared&) = delete;

 private:
  friend class gate::Review;
  friend class gate::Sealing;

  // The value, once, for exactly the use that was approved. kFailedPrecondition when it is spent,
  // kPermissionDenied when the use is another.
  Result<T> Consume(const Binding& use) && {
    if (std::exchange(spent_, true)) return FailedPrecondition("a permit is used a second time");
    if (use != binding_) {
      return PermissionDenied(
          "a permit for round {} phase {} of site {}, {} bytes, is used for round {} phase {} of "
          "site {}, {} bytes, or for another job or content",
          binding_.key.round, binding_.key.phase, binding_.key.site.text, binding_.bytes,
          use.key.round, use.key.phase, use.key.site.text, use.bytes);
    }
    return std::move(value_);
  }
  Cleared(T value, Binding binding) : value_(std::move(value)), binding_(std::move(binding)) {}

  T value_;
  Binding binding_;
  bool spent_ = false;
};

}  // namespace tidegate::permit
