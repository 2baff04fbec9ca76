#include <algorithm>

#include "gate/rule.h"

namespace tidegate::gate {

std::optional<Refusal> JobRule(const JobCase& c) {
  const std::string id = ToHex(c.id);
  const bool allowed =
      std::any_of(c.policy.jobs.begin(), c.policy.jobs.end(), [&](const std::string& name) {
        return name == "any" || name == id || name == c.job.name.text;
      });
  if (!allowed) {
    return Refusal{
        "job", fmt::format("job {} ({}) is not in the policy's jobs.allow", id, c.job.name.text)};
  }
  if (c.job.rounds < 1 || c.job.rounds > c.policy.max_rounds) {
    return Refusal{"job", fmt::format("{} rounds are not in 1 to max_rounds {}", c.job.rounds,
                                      c.policy.max_rounds)};
  }
  if (c.job.local_steps < 1 || c.job.local_steps > c.policy.max_local_steps) {
    return Refusal{"job", fmt::format("{} local steps are not in 1 to max_local_steps {}",
                                      c.job.local_steps, c.policy.max_local_steps)};
  }
  if (c.job.weighting == protocols::Weighting::kTokens &&
      (c.job.max_weight < 1 || c.job.max_weight > protocols::kMaxWeight)) {
    return Refusal{"job", fmt::format("max_weight {} is not in 1 to {}", c.job.max_weight,
                                      protocols::kMaxWeight)};
  }
  return std::nullopt;
}

}  // namespace tidegate::gate
