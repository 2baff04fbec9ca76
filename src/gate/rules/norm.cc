#include "gate/rule.h"

namespace tidegate::gate {

std::optional<Refusal> NormRule(const UpdateCase& c) {
  const double norm = c.view->L2Norm();
  if (norm <= c.policy.norm_clip) return std::nullopt;
  return Refusal{"norm", fmt::format("L2 norm {:.6g} is over the policy's norm_clip {:.6g}", norm,
                                     c.policy.norm_clip)};
}

}  // namespace tidegate::gate
