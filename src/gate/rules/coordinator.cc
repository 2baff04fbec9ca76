#include <algorithm>

#include "gate/rule.h"

namespace tidegate::gate {

std::optional<Refusal> CoordinatorRule(const JobCase& c) {
  if (c.job.federation != c.policy.federation) {
    return Refusal{"coordinator", fmt::format("the job is for federation {}, the policy for {}",
                                              ToHex(c.job.federation), ToHex(c.policy.federation))};
  }
  const auto& sites = c.job.sites.items;
  const bool named = std::any_of(sites.begin(), sites.end(),
                                 [&](const protocols::Name& name) { return name.text == c.site; });
  if (!named) return Refusal{"coordinator", fmt::format("the job does not name site {}", c.site)};
  return std::nullopt;
}

}  // namespace tidegate::gate
