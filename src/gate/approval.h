// Approvals: what the site's own people say of an update that policy holds for them. Signed, bound
// to the very bytes that they were shown, counted against the keys that policy names. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gate/policy.h"
#include "protocols/documents.h"

namespace tidegate::gate {

enum class Decision : uint8_t { kRelease = 1, kRefuse = 2 };

// Signed by an approver in the domain of export approvals.
struct Approval {
  protocols::Id16 federation{};
  protocols::UpdateKey key;
  protocols::Hash32 plaintext{};  // SHA-256 of the encoded update
  Decision decision = Decision::kRefuse;
  protocols::Name approver;  // as policy names the key
  protocols::BoundedText<200> reason;
  int64_t unix_millis = 0;
  template <class A>
  void serialize(A& ar) {
    ar(federation, key, plaintext, decision, approver, reason, unix_millis);
  }
};

// Looked at for one update at most.
inline constexpr size_t kMaxApprovals = 64;

// What policy's approvers say of one update.
struct Standing {
  std::vector<protocols::Signed> releases;  // the newest of each approver
  std::optional<Approval> refusal;
};

// Of these documents those that count: the signature is that of the approver's key in policy, and
// federation, key and plaintext are the update's. An approver's newest word holds; a release that
// is older than policy's hours, or dated later than an hour from now, does not count.
Standing StandingOf(const Policy& policy, const protocols::UpdateKey& key,
                    const protocols::Hash32& plaintext,
                    std::span<const protocols::Signed> documents, int64_t unix_millis);

// Whether policy holds an export of a job that has made so many.
bool Holds(const Policy& policy, uint32_t exports_of_job);

}  // namespace tidegate::gate

namespace tidegate::protocols {
template <>
struct EnumRange<gate::Decision> {
  static constexpr gate::Decision kFirst = gate::Decision::kRelease;
  static constexpr gate::Decision kLast = gate::Decision::kRefuse;
  static constexpr const char* kName = "decision";
};
}  // namespace tidegate::protocols
