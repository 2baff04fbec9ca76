#include <algorithm>

#include "gate/rule.h"

namespace tidegate::gate {

std::optional<Refusal> BaseRule(const JobCase& c) {
  const auto& hashes = c.policy.base_hashes;
  if (std::find(hashes.begin(), hashes.end(), c.job.base_hash) != hashes.end()) return std::nullopt;
  return Refusal{"base", fmt::format("base {} is not in the policy's jobs.base_hashes",
                                     ToHex(c.job.base_hash))};
}

}  // namespace tidegate::gate
