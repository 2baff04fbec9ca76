#include "gate/rule.h"

namespace tidegate::gate {

std::optional<Refusal> JudgeNorm(const Policy& policy, double norm) {
  if (norm <= policy.norm_clip) return std::nullopt;
  return Refusal{"norm", fmt::format("L2 norm {:.6g} is over the policy's norm_clip {:.6g}", norm,
                                     policy.norm_clip)};
}

std::optional<Refusal> NormRule(UpdateCase& c) {
  c.l2_norm = c.view->L2Norm();
  return JudgeNorm(c.policy, c.l2_norm);
}

}  // namespace tidegate::gate
