#include "federation/rounds/round.h"

#include <algorithm>

#include "base/rng.h"

namespace tidegate::federation {
namespace {

template <class... Ts>
struct Overload : Ts... {
  using Ts::operator()...;
};
// For clang 14, which deduces no arguments of aggregates.
template <class... Ts>
Overload(Ts...) -> Overload<Ts...>;

const char* EventName(const Event& event) {
  static constexpr const char* kNames[] = {"RoundOpened", "UpdateAccepted", "TimePassed",
                                           "VersionPublished", "StopRequested"};
  return kNames[event.index()];
}

Error Unexpected(const JobState& state, const Event& event) {
  return FailedPrecondition("{} is not expected in state {} of round {}", EventName(event),
                            StateName(state), CurrentRound(state));
}

uint8_t PhaseOf(const JobState& state, uint32_t round) {
  return static_cast<uint8_t>((round - 1) % state.rules.phases);
}

Transition CloseForSum(JobState state, Collecting collecting) {
  Transition t;
  t.effects.push_back(Aggregate{collecting.round, collecting.accepted});
  state.phase = Aggregating{collecting.round, std::move(collecting.accepted)};
  t.state = std::move(state);
  return t;
}

Transition End(JobState state, bool finished, protocols::AbandonReason reason) {
  Transition t;
  if (const auto* open = std::get_if<Collecting>(&state.phase)) {
    t.effects.push_back(AbandonRound{open->round, reason});
  }
  state.phase = Ended{finished, reason};
  t.effects.push_back(EndJob{finished, reason});
  t.state = std::move(state);
  return t;
}

Transition Abandon(JobState state, const Collecting& collecting) {
  const auto reason = protocols::AbandonReason::kBelowQuorum;
  ++state.abandoned_in_a_row;
  if (state.abandoned_in_a_row >= kMaxAbandonedInARow) return End(std::move(state), false, reason);
  Transition t;
  t.effects.push_back(AbandonRound{collecting.round, reason});
  state.phase = Idle{collecting.round + 1};
  t.effects.push_back(OpenRound{collecting.round + 1, PhaseOf(state, collecting.round + 1)});
  t.state = std::move(state);
  return t;
}

// The handlers change the state that they are given: of a large job a copy for each event would be
// what its rounds cost.
Result<Transition> OnOpened(JobState state, const RoundOpened& e) {
  const auto* idle = std::get_if<Idle>(&state.phase);
  if (idle == nullptr || idle->round != e.round) return Unexpected(state, Event(e));
  const std::vector<std::string>& sites = state.rules.sites;
  const std::vector<std::string>& asked = e.asked.empty() ? sites : e.asked;
  if (asked.size() != state.rules.asked() ||
      !std::includes(sites.begin(), sites.end(), asked.begin(), asked.end())) {
    return InvalidArgument("round {} asks {} sites; {} of the job's are asked", e.round,
                           asked.size(), state.rules.asked());
  }
  Collecting collecting{
      e.round, e.unix_millis + static_cast<int64_t>(state.rules.deadline_millis), asked, {}};
  state.phase = std::move(collecting);
  return Transition{std::move(state), {}};
}

Result<Transition> OnAccepted(JobState state, const UpdateAccepted& e) {
  auto* open = std::get_if<Collecting>(&state.phase);
  if (open == nullptr || open->round != e.round) return Unexpected(state, Event(e));
  if (!std::binary_search(state.rules.sites.begin(), state.rules.sites.end(), e.site)) {
    return PermissionDenied("site {} is not named by the job", e.site);
  }
  if (!std::binary_search(open->asked.begin(), open->asked.end(), e.site)) {
    return PermissionDenied("site {} is not asked in round {}", e.site, e.round);
  }
  if (e.update.weight < 1 || e.update.weight > protocols::kMaxWeight) {
    return InvalidArgument("a weight of {} is not in 1 … {}", e.update.weight,
                           protocols::kMaxWeight);
  }
  if (const auto it = open->accepted.find(e.site); it != open->accepted.end()) {
    if (it->second.content == e.update.content) {
      return AlreadyExists("site {} has this update in round {} already", e.site, e.round);
    }
    return AlreadyExists("equivocation: site {} has another update in round {} already", e.site,
                         e.round);
  }
  open->accepted.emplace(e.site, e.update);
  const uint32_t target = state.rules.target_updates;
  if (open->accepted.size() < (target == 0 ? open->asked.size() : target)) {
    return Transition{std::move(state), {}};
  }
  Collecting collecting = std::move(*open);
  return CloseForSum(std::move(state), std::move(collecting));
}

Result<Transition> OnTime(JobState state, const TimePassed& e) {
  auto* open = std::get_if<Collecting>(&state.phase);
  if (open == nullptr || e.unix_millis < open->deadline_unix_millis) {
    return Transition{std::move(state), {}};
  }
  Collecting collecting = std::move(*open);
  if (collecting.accepted.size() >= state.rules.quorum) {
    return CloseForSum(std::move(state), std::move(collecting));
  }
  return Abandon(std::move(state), collecting);
}

Result<Transition> OnPublished(JobState state, const VersionPublished& e) {
  const auto* summing = std::get_if<Aggregating>(&state.phase);
  if (summing == nullptr || e.version != state.version + 1) return Unexpected(state, Event(e));
  state.version = e.version;
  state.abandoned_in_a_row = 0;
  if (state.version == state.rules.rounds) {
    return End(std::move(state), true, protocols::AbandonReason::kStopped);
  }
  const uint32_t round = summing->round + 1;
  state.phase = Idle{round};
  Transition t;
  t.effects.push_back(OpenRound{round, PhaseOf(state, round)});
  t.state = std::move(state);
  return t;
}

}  // namespace

RoundRules RulesOf(const protocols::JobManifest& job) {
  RoundRules rules;
  for (const protocols::Name& site : job.sites.items) rules.sites.push_back(site.text);
  rules.rounds = job.rounds;
  rules.quorum = job.quorum;
  rules.deadline_millis = job.round_deadline_millis;
  rules.phases = static_cast<uint32_t>(job.phase_groups.size());
  rules.sites_per_round = job.sites_per_round;
  rules.target_updates = job.target_updates;
  return rules;
}

std::vector<std::string> DrawSites(const RoundRules& rules, uint64_t seed, uint32_t round,
                                   const std::set<std::string>& present) {
  if (rules.asked() == rules.sites.size()) return {};
  std::vector<std::string> order = rules.sites;
  for (size_t i = order.size(); i > 1; --i) {
    const uint32_t word = RandomWords(seed, RngPurpose::kSites, round, i)[0];
    std::swap(order[i - 1], order[UniformBelow(word, static_cast<uint32_t>(i))]);
  }
  std::stable_partition(order.begin(), order.end(),
                        [&present](const std::string& site) { return present.contains(site); });
  order.resize(rules.asked());
  std::sort(order.begin(), order.end());
  return order;
}

Result<JobState> NewJob(RoundRules rules, size_t most_sites) {
  if (rules.sites.empty() || rules.sites.size() > most_sites) {
    return InvalidArgument("a job names {} sites; it takes 1 … {}", rules.sites.size(), most_sites);
  }
  std::sort(rules.sites.begin(), rules.sites.end());
  if (std::adjacent_find(rules.sites.begin(), rules.sites.end()) != rules.sites.end()) {
    return InvalidArgument("a job names a site twice");
  }
  if (rules.asked() > rules.sites.size()) {
    return InvalidArgument("{} sites_per_round are more than the job's {} sites",
                           rules.sites_per_round, rules.sites.size());
  }
  if (rules.quorum < 1 || rules.quorum > rules.asked()) {
    return InvalidArgument("a quorum of {} is not in 1 … {} (the sites that are asked)",
                           rules.quorum, rules.asked());
  }
  if (rules.target_updates != 0 &&
      (rules.target_updates < rules.quorum || rules.target_updates > rules.asked())) {
    return InvalidArgument("{} target_updates are not in {} … {} (quorum … sites that are asked)",
                           rules.target_updates, rules.quorum, rules.asked());
  }
  if (rules.rounds < 1 || rules.rounds > protocols::kMaxRounds) {
    return InvalidArgument("{} rounds is not in 1 … {}", rules.rounds, protocols::kMaxRounds);
  }
  if (rules.phases < 1 || rules.phases > protocols::kMaxPhases || rules.deadline_millis < 1) {
    return InvalidArgument("a job needs 1 … {} phases and a deadline", protocols::kMaxPhases);
  }
  JobState state;
  state.rules = std::move(rules);
  return state;
}

Result<Transition> Step(JobState state, const Event& event) {
  return std::visit(
      Overload{[&](const RoundOpened& e) { return OnOpened(std::move(state), e); },
               [&](const UpdateAccepted& e) { return OnAccepted(std::move(state), e); },
               [&](const TimePassed& e) { return OnTime(std::move(state), e); },
               [&](const VersionPublished& e) { return OnPublished(std::move(state), e); },
               [&](const StopRequested&) -> Result<Transition> {
                 if (std::holds_alternative<Ended>(state.phase)) return Unexpected(state, event);
                 return End(std::move(state), false, protocols::AbandonReason::kStopped);
               }},
      event);
}

std::vector<Effect> PendingEffects(const JobState& state) {
  if (const auto* idle = std::get_if<Idle>(&state.phase)) {
    return {OpenRound{idle->round, PhaseOf(state, idle->round)}};
  }
  if (const auto* summing = std::get_if<Aggregating>(&state.phase)) {
    return {Aggregate{summing->round, summing->accepted}};
  }
  return {};
}

const char* StateName(const JobState& state) {
  static constexpr const char* kNames[] = {"idle", "collecting", "aggregating", "ended"};
  return kNames[state.phase.index()];
}

uint32_t CurrentRound(const JobState& state) {
  return std::visit(Overload{[](const Ended&) { return uint32_t{0}; },
                             [](const auto& phase) { return phase.round; }},
                    state.phase);
}

}  // namespace tidegate::federation
