// Onshore<T>: a value that may not leave the country. It can be moved and used, and nothing else:
// it cannot be copied, compared, printed, formatted, hashed or encoded. tests/compile_fail holds
// the attempts that must not compile.
#pragma once

#include <ostream>
#include <utility>

namespace tidegate {

template <typename T>
class Onshore {
 public:
  Onshore() = default;
  explicit Onshore(T value) : value_(std::move(value)) {}
  Onshore(Onshore&&) noexcept = default;
  Onshore& operator=(Onshore&&) noexcept = default;
  Onshore(const Onshore&) = delete;
  Onshore& operator=(const Onshore&) = delete;

  // The one way in, greppable. For code of the modules marked ONSHORE ONLY.
  const T& reveal() const { return value_; }
  T& reveal_mutable() { return value_; }

  friend std::ostream& operator<<(std::ostream&, const Onshore&) = delete;

 private:
  T value_{};
};

}  // namespace tidegate
