#include "federation/rounds/round.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"

namespace tidegate::federation {
namespace {

RoundRules TwoSites() { return {{"a", "b"}, 2, 1, 1000, 1}; }

AcceptedUpdate Update(uint8_t id) {
  AcceptedUpdate update;
  update.content.fill(id);
  return update;
}

// Applies events that must be accepted; returns the last transition.
Transition Apply(JobState state, const std::vector<Event>& events) {
  Transition t{std::move(state), {}};
  for (const Event& e : events) {
    auto next = Step(t.state, e);
    EXPECT_TRUE(next.has_value()) << next.error().ToString();
    if (next) t = *next;
  }
  return t;
}

TEST(Round, AllSitesInClosesTheRoundAndThePublishedVersionOpensTheNext) {
  Transition t = Apply(*NewJob(TwoSites()), {RoundOpened{1, 0}, UpdateAccepted{"b", 1, Update(2)},
                                             UpdateAccepted{"a", 1, Update(1)}});
  ASSERT_EQ(t.effects.size(), 1u);
  EXPECT_EQ(std::get<Aggregate>(t.effects[0]).accepted.size(), 2u);
  t = Apply(t.state, {VersionPublished{1}});
  EXPECT_EQ(std::get<OpenRound>(t.effects.at(0)).round, 2u);
  t = Apply(t.state, {RoundOpened{2, 0}, UpdateAccepted{"a", 2, Update(3)},
                      UpdateAccepted{"b", 2, Update(4)}, VersionPublished{2}});
  EXPECT_TRUE(std::get<EndJob>(t.effects.at(0)).finished);
  EXPECT_STREQ(StateName(t.state), "ended");
}

TEST(Round, TheDeadlineTakesAQuorumOrAbandons) {
  Transition t = Apply(*NewJob(TwoSites()),
                       {RoundOpened{1, 500}, UpdateAccepted{"a", 1, Update(1)}, TimePassed{1499}});
  EXPECT_TRUE(t.effects.empty());
  t = Apply(t.state, {TimePassed{1500}});
  EXPECT_EQ(std::get<Aggregate>(t.effects.at(0)).accepted.size(), 1u);

  t = Apply(*NewJob(TwoSites()), {RoundOpened{1, 0}, TimePassed{1000}});
  EXPECT_EQ(std::get<AbandonRound>(t.effects.at(0)).round, 1u);
  EXPECT_EQ(std::get<OpenRound>(t.effects.at(1)).round, 2u) << "a key is never used again";
  t = Apply(t.state, {RoundOpened{2, 0}, TimePassed{1000}, RoundOpened{3, 0}, TimePassed{1000}});
  EXPECT_FALSE(std::get<EndJob>(t.effects.back()).finished);
}

RoundRules FourSites() {
  RoundRules rules{{"a", "b", "c", "d"}, 2, 1, 1000, 1};
  rules.sites_per_round = 3;
  rules.target_updates = 2;
  return rules;
}

// Three of four are asked and two are enough: nobody waits for the third.
TEST(Round, EndsWithItsTargetOfTheSitesThatWereAsked) {
  Transition t = Apply(*NewJob(FourSites()),
                       {RoundOpened{1, 0, {"a", "c", "d"}}, UpdateAccepted{"d", 1, Update(2)}});
  EXPECT_EQ(Step(t.state, UpdateAccepted{"b", 1, Update(1)}).error().message(),
            "site b is not asked in round 1");
  t = Apply(t.state, {UpdateAccepted{"a", 1, Update(1)}});
  EXPECT_EQ(std::get<Aggregate>(t.effects.at(0)).accepted.size(), 2u);
  EXPECT_FALSE(Step(t.state, UpdateAccepted{"c", 1, Update(3)}).has_value()) << "late";
  for (const auto& asked : {std::vector<std::string>{"a", "b"}, {"a", "b", "x"}, {}}) {
    EXPECT_FALSE(Step(*NewJob(FourSites()), RoundOpened{1, 0, asked}).has_value());
  }
}

TEST(Round, TheDrawTakesThoseWhoArePresentAndThenByTurns) {
  const RoundRules rules = FourSites();
  std::map<std::string, int> drawn;
  for (uint32_t round = 1; round <= 400; ++round) {
    const auto asked = DrawSites(rules, 42, round, {});
    ASSERT_EQ(asked.size(), 3u);
    EXPECT_TRUE(std::is_sorted(asked.begin(), asked.end()));
    EXPECT_EQ(asked, DrawSites(rules, 42, round, {})) << "the same seed, the same sites";
    for (const std::string& site : asked) ++drawn[site];
    const auto present = DrawSites(rules, 42, round, {"b", "d"});
    EXPECT_TRUE(std::count(present.begin(), present.end(), "b") == 1 &&
                std::count(present.begin(), present.end(), "d") == 1);
  }
  ASSERT_EQ(drawn.size(), 4u);
  for (const auto& [site, times] : drawn) EXPECT_NEAR(times, 300, 40) << site;
  EXPECT_NE(DrawSites(rules, 42, 1, {}), DrawSites(rules, 43, 2, {}));
  EXPECT_TRUE(DrawSites(TwoSites(), 42, 1, {}).empty()) << "all are asked";
}

TEST(Round, RulesThatContradictThemselvesAreRefused) {
  const auto refused = [](auto&& change) {
    RoundRules rules = FourSites();
    change(rules);
    return !NewJob(rules).has_value();
  };
  EXPECT_FALSE(refused([](RoundRules&) {}));
  EXPECT_TRUE(refused([](RoundRules& r) { r.sites_per_round = 5; }));
  EXPECT_TRUE(refused([](RoundRules& r) { r.quorum = 4; }));
  EXPECT_TRUE(refused([](RoundRules& r) { r.target_updates = 4; }));
  EXPECT_TRUE(refused([](RoundRules& r) { r.quorum = 3; })) << "over the target";
}

TEST(Round, RefusesByName) {
  const JobState fresh = *NewJob(TwoSites());
  EXPECT_EQ(Step(fresh, UpdateAccepted{"a", 1, Update(1)}).error().message(),
            "UpdateAccepted is not expected in state idle of round 1");
  const JobState open = Apply(fresh, {RoundOpened{1, 0}, UpdateAccepted{"a", 1, Update(1)}}).state;
  EXPECT_EQ(Step(open, UpdateAccepted{"c", 1, Update(1)}).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(Step(open, UpdateAccepted{"b", 2, Update(1)}).error().code(),
            Code::kFailedPrecondition);
  auto same = Step(open, UpdateAccepted{"a", 1, Update(1)});
  EXPECT_EQ(same.error().code(), Code::kAlreadyExists);
  EXPECT_EQ(same.error().message().find("equivocation"), std::string::npos);
  auto other = Step(open, UpdateAccepted{"a", 1, Update(9)});
  EXPECT_NE(other.error().message().find("equivocation"), std::string::npos);
  EXPECT_FALSE(NewJob({{"a", "a"}, 1, 1, 1, 1}).has_value());
  EXPECT_FALSE(NewJob({{"a"}, 1, 2, 1, 1}).has_value());
}

TEST(Round, StopEndsInAnyStateOnce) {
  const JobState open = Apply(*NewJob(TwoSites()), {RoundOpened{1, 0}}).state;
  Transition t = Apply(open, {StopRequested{}});
  EXPECT_EQ(std::get<AbandonRound>(t.effects.at(0)).reason, protocols::AbandonReason::kStopped);
  EXPECT_FALSE(Step(t.state, StopRequested{}).has_value());
}

// Random events: never more than one update a site a round, versions only go up by one, rounds
// never go back, and the pending effects of a state are those that led to it.
TEST(Round, RandomEventsKeepTheInvariants) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    JobState state = *NewJob({{"a", "b", "c"}, 4, 2, 1000, 2});
    int64_t now = 0;
    for (uint32_t i = 0; i < 200; ++i) {
      const auto w = RandomWords(seed, RngPurpose::kTest, 0, i);
      const uint32_t round = std::max<uint32_t>(1, CurrentRound(state) + w[1] % 2);
      now += w[2] % 400;
      Event event;
      switch (w[0] % 5) {
        case 0:
          event = RoundOpened{round, now};
          break;
        case 1:
          event = TimePassed{now};
          break;
        case 2:
          event = VersionPublished{state.version + w[3] % 2};
          break;
        default:
          event = UpdateAccepted{std::string(1, static_cast<char>('a' + w[3] % 4)), round,
                                 Update(static_cast<uint8_t>(w[1] >> 8))};
      }
      const uint32_t before = CurrentRound(state), version = state.version;
      auto next = Step(state, event);
      if (!next) continue;
      state = next->state;
      EXPECT_LE(state.version, version + 1);
      EXPECT_GE(state.version, version);
      if (std::holds_alternative<Ended>(state.phase)) break;
      EXPECT_GE(CurrentRound(state), before);
      if (const auto* s = std::get_if<Aggregating>(&state.phase)) {
        EXPECT_GE(s->accepted.size(), state.rules.quorum);
        EXPECT_EQ(PendingEffects(state).size(), 1u);
      }
    }
  }
}

}  // namespace
}  // namespace tidegate::federation
