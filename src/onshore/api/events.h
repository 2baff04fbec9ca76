// What happens at a site, as numbers: what its processes tell their supervisor (onshore/ipc), what
// goes into the site's log and what the local API streams. Pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tidegate::onshore {

// Never reuse a number. Below 100: told by gate, link or trainer; from there on by the supervisor.
enum class EventCode : uint32_t {
  kJobAccepted = 1,       // rounds
  kJobRefused = 2,        // rule
  kRoundStarted = 3,      // round, adapter version
  kUpdateReleased = 4,    // round, bytes, ledger index
  kUpdateRefused = 5,     // round, rule
  kReceiptStored = 6,     // round, outcome
  kAdapterStored = 7,     // version
  kConnected = 8,         //
  kDisconnected = 9,      //
  kTrained = 10,          // round, steps, loss in thousandths
  kEvaluated = 11,        // version, held-out loss before and after in thousandths, kept
  kInputRefused = 12,     // wire message type
  kWallMissing = 13,      // wall, errno
  kReleaseRefused = 14,   // round, code: the coordinator will never take it
  kUpdateHeld = 15,       // round, bytes: until the site's people release it
  kLeaseUnanswered = 16,  // seconds
  kLeaseAnswered = 17,    //
  kDecisionHeard = 18,    // round, uid, decision (1 release, 2 refuse), whether it counts

  kProcessStarted = 101,  // process, pid, generation
  kProcessReady = 102,    // process, walls
  kProcessEnded = 103,    // process, how, signal, status
  kProcessKilled = 104,   // process
  kJobEnded = 105,        // version
  kStopping = 106,        // signal; 0: asked over the local API
  kHeld = 107,            // hold: the trainer is not to run for this reason
  kReleased = 108,        // hold: the reason is gone
  kDatasetSet = 109,      // dataset, source
  kLocalStarted = 110,    // job, verb, pid, uid of who asked
  kLocalEnded = 111,      // job, how, signal, status
  kClientRefused = 112,   // uid, pid
  kOutsideBegan = 113,    // uid: its program trains this site's rounds from here on
  kOutsideEnded = 114,    // uid
};

inline constexpr uint32_t kFirstOwnEvent = 100;  // of the supervisor

// Who told it.
enum class Source : uint32_t { kGate = 0, kLink = 1, kTrainer = 2, kSupervisor = 3 };
inline constexpr uint32_t kSources = 4;
std::string_view SourceName(uint32_t source);

// Why a trainer that the gate wants does not run. Several at once: a bit each.
enum class Hold : uint32_t {
  kPaused = 0,           // a person's wish, until resumed
  kJobStopped = 1,       // a person's wish, until resumed or until the gate has another job
  kCoordinatorLost = 2,  // no LEASE answered for free_trainer_seconds of site.toml
  kDatasetGone = 3,      // it was handed over as a descriptor, before a restart
  kDatasetRefused = 4,   // the trainer could not use what was set over the API
};
inline constexpr uint32_t kHolds = 5;
std::string_view HoldName(uint32_t hold);

enum class DatasetKind : uint32_t { kRecords = 0, kHeldout = 1 };
inline constexpr uint32_t kDatasets = 2;
std::string_view DatasetName(uint32_t dataset);

enum class DatasetSource : uint32_t { kSite = 0, kPath = 1, kDescriptor = 2, kGone = 3 };
std::string_view DatasetSourceName(uint32_t source);

enum class LocalVerb : uint32_t { kFinetune = 0, kEval = 1, kGenerate = 2, kDataCheck = 3 };
inline constexpr uint32_t kLocalVerbs = 4;
std::string_view LocalVerbName(uint32_t verb);

// In the order of sandbox/walls.h.
std::string_view WallText(uint32_t wall);
// In the order of sandbox/spawn.h's End.
std::string_view EndText(uint32_t end);

// Those that the event's text names; the others are zero. What a child says beyond them goes
// nowhere.
std::array<int64_t, 4> NamedArguments(uint32_t code, const std::array<int64_t, 4>& arguments);

// "update_released round=3 bytes=4912345 ledger_index=17"; "unknown_event code=99" for others.
std::string EventText(uint32_t code, const std::array<int64_t, 4>& arguments);

}  // namespace tidegate::onshore
