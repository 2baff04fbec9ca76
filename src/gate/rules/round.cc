#include <algorithm>
#include <cstring>

#include "gate/rule.h"

namespace tidegate::gate {
namespace {

std::optional<Refusal> Refuse(std::string reason) { return Refusal{"round", std::move(reason)}; }

bool IsSite(const std::array<uint8_t, protocols::kMaxName>& field, const std::string& site) {
  std::array<uint8_t, protocols::kMaxName> expected{};
  std::copy_n(site.begin(), std::min(site.size(), expected.size()), expected.begin());
  return field == expected;
}

}  // namespace

std::optional<Refusal> RoundRule(const UpdateCase& c) {
  const protocols::UpdateHeader& h = c.view->header();
  if (h.job != c.job_id) return Refuse("the update is of another job");
  if (h.round != c.round.round || h.phase != c.round.phase) {
    return Refuse(fmt::format("the update is of round {} phase {}, open is round {} phase {}",
                              h.round, h.phase, c.round.round, c.round.phase));
  }
  if (c.round.phase >= c.job.phase_groups.size() ||
      h.groups != c.job.phase_groups.items[c.round.phase]) {
    return Refuse(fmt::format("groups {:#x} are not those of phase {}", h.groups, h.phase));
  }
  if (h.base_hash != c.job.base_hash) return Refuse("the update is of another base");
  if (h.layout_digest != c.layout_digest) return Refuse("the update is of another layout");
  if (!IsSite(h.site, c.site)) return Refuse("the update names another site");
  if (h.weight > MaxWeight(c.job)) {
    return Refuse(fmt::format("weight {} is over the job's {}", h.weight, MaxWeight(c.job)));
  }
  if (c.round_spent) return Refuse("this round's export was made already");
  return std::nullopt;
}

}  // namespace tidegate::gate
