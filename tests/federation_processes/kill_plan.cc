#include "kill_plan.h"

#include "base/rng.h"

namespace tidegate::federation_processes {
namespace {

constexpr uint32_t kMaxDelayMicros = 5000;

}  // namespace

std::vector<PlannedKill> PlanOf(uint64_t seed, size_t sites) {
  std::vector<PlannedKill> plan;
  for (size_t i = 0; i < kStepCount; ++i) {
    const LogStep& step = kLogSteps[i];
    const auto dice = RandomWords(seed, RngPurpose::kTest, static_cast<uint32_t>(i), 0);
    const auto more = RandomWords(seed, RngPurpose::kTest, static_cast<uint32_t>(i), 1);
    PlannedKill kill;
    kill.step = i;
    kill.site = step.may_miss ? (plan.back().site + 1) % sites
                              : UniformBelow(dice[0], static_cast<uint32_t>(sites));
    // Half of the time who takes the step, else any of the five.
    kill.victim =
        dice[1] % 2 == 0 ? step.owner : static_cast<Victim>(UniformBelow(dice[2], kVictims));
    kill.occurrence = 1 + UniformBelow(dice[3], step.times);
    // Half of the time at once: most of what can go wrong lies within a millisecond.
    kill.delay_micros = more[0] % 2 == 0 ? 0 : UniformBelow(more[1], kMaxDelayMicros);
    plan.push_back(kill);
  }
  return plan;
}

bool IsNewsOf(const LogStep& step, const std::string& news, const std::string& site) {
  const std::string begin = (step.at_site() ? site : "coordinator") + step.where;
  return news.starts_with(begin) && news.find(step.text) != std::string::npos;
}

}  // namespace tidegate::federation_processes
