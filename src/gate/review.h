// The judgement: the rules in order, and the one place that mints Cleared.
#pragma once

#include <functional>
#include <vector>

#include "gate/rule.h"
#include "gate/sealing.h"

namespace tidegate::gate {

// Nothing, or why the job may not run here.
std::optional<Refusal> ReviewJob(const JobCase& c);

class Review {
 public:
  struct Verdict {
    // Exactly one of these three is set.
    std::optional<permit::Cleared<Update>> cleared;
    std::optional<Refusal> refusal;
    std::optional<IntentLeaf> held;  // too few approvals yet: what people are shown
    // Those that cleared it, for the ledger.
    std::vector<protocols::Signed> approvals;
  };
  static Verdict JudgeUpdate(UpdateCase c);
};

// Nothing, or why an export that an earlier policy cleared is not let out under this one: its norm,
// its losses, its bytes. (Its job is judged as any job.)
std::optional<Refusal> ReviewExport(const Policy& policy, const IntentLeaf& intent);

// The bits that a tensor of so many values could carry in this codec: log2 of how many there are
// that the encoding rule takes.
double CapacityBits(protocols::Codec codec, uint64_t values);
// Of an update whose view is set: its tensors, and what of its header the trainer may choose.
double UpdateBits(const UpdateCase& c);

}  // namespace tidegate::gate
