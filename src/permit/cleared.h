// Cleared<T>: the right to let one particular value out of the gate. Only gate::Review mints it,
// after every rule of the policy has agreed; only sealing consumes it, once, for what it was given.
//
// The complete list of who may let data out is the friend below. Adding one needs an entry in
// docs/adr. Not thread-safe.
#pragma once

#include <utility>

#include "base/bytes.h"
#include "base/status.h"
#include "protocols/documents.h"

namespace tidegate::gate {
class Review;
}

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

  const Binding& binding() const { return binding_; }

  // The value, once, for exactly the use that was approved. kFailedPrecondition when it is spent,
  // kPermissionDenied when the use is another.
  Result<T> Consume(const Binding& use) && {
    if (std::exchange(spent_, true)) return FailedPrecondition("a permit is used a second time");
    if (use != binding_) return PermissionDenied("a permit is for another update");
    return std::move(value_);
  }

 private:
  friend class gate::Review;
  Cleared(T value, Binding binding) : value_(std::move(value)), binding_(std::move(binding)) {}

  T value_;
  Binding binding_;
  bool spent_ = false;
};

}  // namespace tidegate::permit
