#include "gate/rule.h"

namespace tidegate::gate {

std::optional<Refusal> ApprovalRule(const UpdateCase& c, const Standing& standing) {
  if (!Holds(c.policy, c.spent.exports_of_id) || !standing.refusal) return std::nullopt;
  return Refusal{"approval", fmt::format("{} refused it: {}", standing.refusal->approver,
                                         standing.refusal->reason)};
}

}  // namespace tidegate::gate
