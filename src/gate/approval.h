// Approvals: what the site's own people say of an update that policy holds for them. Signed, bound
// to the very bytes that they were shown, counted against the keys that policy names. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gate/ledger_entry.h"
#include "gate/policy.h"
#include "protocols/documents.h"

namespace tidegate::gate {

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

// A decision leaf and when it was written.
struct Said {
  DecisionLeaf leaf;
  int64_t unix_millis = 0;
};

// What policy's approvers say of one update.
struct Standing {
  uint32_t released = 0;                    // by so many different approvers
  std::vector<protocols::Signed> releases;  // those that were signed, the newest of each approver
  struct Refusal {
    std::string approver, reason;
  };
  std::optional<Refusal> refusal;
};

// Of these documents those that count: the signature is that of the approver's key in policy, and
// federation, key and plaintext are the update's. An approver's newest word holds; a release that
// is older than policy's hours, or dated later than an hour from now, does not count. What was said
// over the API is the ledger's own: it counts where policy names that user for that approver still.
Standing StandingOf(const Policy& policy, const protocols::UpdateKey& key,
                    const protocols::Hash32& plaintext,
                    std::span<const protocols::Signed> documents, std::span<const Said> said,
                    int64_t unix_millis);

// Whether policy holds an export of a job that has made so many.
bool Holds(const Policy& policy, uint32_t exports_of_job);

}  // namespace tidegate::gate
