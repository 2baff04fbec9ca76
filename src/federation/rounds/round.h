// A job's rounds as a pure function: (state, event) → (state, effects).
//
// No clock, store or network in here: time comes in events, what must be durable or sent goes out
// as effects, in order. The coordinator logs an event before it lets its effects happen; after a
// crash it replays the logged events and gets the same state (effects of replayed events are only
// re-done when they are idempotent: see store.h). An event that a state does not expect is
// refused by name and changes nothing.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "protocols/documents.h"

namespace tidegate::federation {

// What of a job the rounds depend on.
struct RoundRules {
  std::vector<std::string> sites;  // sorted, unique
  uint32_t rounds = 1;             // versions to publish
  uint32_t quorum = 1;             // 1 … sites that are asked in a round
  uint64_t deadline_millis = 0;
  uint32_t phases = 1;
  uint32_t sites_per_round = 0;  // sites that are asked; 0: all
  uint32_t target_updates = 0;  // quorum … sites that are asked: so many end a round; 0: all asked
  uint32_t asked() const {
    return sites_per_round == 0 ? static_cast<uint32_t>(sites.size()) : sites_per_round;
  }
};
RoundRules RulesOf(const protocols::JobManifest& job);

// A job is ended after this many rounds abandoned in a row.
inline constexpr uint32_t kMaxAbandonedInARow = 3;

struct AcceptedUpdate {
  Digest content{};
  uint32_t weight = 1;
  bool operator==(const AcceptedUpdate&) const = default;
};

// Nothing announced yet; the next round to open is `round`.
struct Idle {
  uint32_t round = 1;
};
// Open for updates until those that end it are in, or the deadline has passed.
struct Collecting {
  uint32_t round = 1;
  int64_t deadline_unix_millis = 0;
  std::vector<std::string> asked;                  // sorted
  std::map<std::string, AcceptedUpdate> accepted;  // by site
};
// Closed; the sum of exactly these is being made.
struct Aggregating {
  uint32_t round = 1;
  std::map<std::string, AcceptedUpdate> accepted;
};
struct Ended {
  bool finished = false;  // all versions published; else stopped
  protocols::AbandonReason reason = protocols::AbandonReason::kStopped;
};

struct JobState {
  RoundRules rules;
  uint32_t version = 0;  // published so far; 0 is the initial adapter
  uint32_t abandoned_in_a_row = 0;
  std::variant<Idle, Collecting, Aggregating, Ended> phase = Idle{};
};

// Events
struct RoundOpened {  // its recipient key and announcement are durable
  uint32_t round = 0;
  int64_t unix_millis = 0;
  std::vector<std::string> asked = {};  // sorted; empty: all of the job's sites
};
struct UpdateAccepted {  // its bytes are durable and were checked
  std::string site;
  uint32_t round = 0;
  AcceptedUpdate update;
};
struct TimePassed {
  int64_t unix_millis = 0;
};
struct VersionPublished {  // the new adapter is durable
  uint32_t version = 0;
  int64_t unix_millis = 0;
};
struct StopRequested {
  int64_t unix_millis = 0;
};
using Event =
    std::variant<RoundOpened, UpdateAccepted, TimePassed, VersionPublished, StopRequested>;

// Effects
struct OpenRound {  // make a key, announce, then RoundOpened
  uint32_t round = 0;
  uint8_t phase = 0;
};
struct Aggregate {  // sum these, publish, then VersionPublished
  uint32_t round = 0;
  std::map<std::string, AcceptedUpdate> accepted;
};
struct AbandonRound {  // tell the sites; delete the key
  uint32_t round = 0;
  protocols::AbandonReason reason = protocols::AbandonReason::kBelowQuorum;
};
struct EndJob {
  bool finished = false;
  protocols::AbandonReason reason = protocols::AbandonReason::kStopped;
};
using Effect = std::variant<OpenRound, Aggregate, AbandonRound, EndJob>;

struct Transition {
  JobState state;
  std::vector<Effect> effects;
};

// Who is asked in a round: sites_per_round of the job's sites, those that are present first, in an
// order drawn by seed and round. Sorted; empty where all are.
std::vector<std::string> DrawSites(const RoundRules& rules, uint64_t seed, uint32_t round,
                                   const std::set<std::string>& present);

// kInvalidArgument when the rules contradict themselves. `most_sites`: more than a job can name are
// for simulations.
Result<JobState> NewJob(RoundRules rules, size_t most_sites = protocols::kMaxSites);

// kFailedPrecondition "EVENT is not expected in STATE …"; kAlreadyExists for a second update of a
// site in a round (the same content: harmless; another: equivocation, the message says which).
// With a state that is moved in nothing of it is copied; after an error it is gone.
Result<Transition> Step(JobState state, const Event& event);

// What a job waits to have done, given its state: for after a restart. Empty while collecting.
std::vector<Effect> PendingEffects(const JobState& state);

const char* StateName(const JobState& state);
// The round that is open or being summed, or the next one.
uint32_t CurrentRound(const JobState& state);

}  // namespace tidegate::federation
