// What is killed when, as a function of a seed: one kill for each log step of either shore. A step
// is something that one of the processes makes durable, or tells that it has; its text is looked
// for in the news of a FolderWatch.
#pragma once

#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

namespace tidegate::federation_processes {

enum class Victim : uint8_t { kCoordinator, kSupervisor, kGate, kLink, kTrainer };
inline constexpr const char* kVictimNames[] = {"coordinator", "supervisor", "gate", "link",
                                               "trainer"};
inline constexpr uint32_t kVictims = std::size(kVictimNames);

struct LogStep {
  // News that begins with the shore's name (the site's, "coordinator") and `where`, and has `text`.
  const char* where;
  const char* text;
  Victim owner;    // who takes the step
  uint32_t times;  // it comes at least so often in a job of three rounds
  // Told once, after the durable step above it: a kill there takes it along. Or the site may be
  // gone before it can be killed.
  bool may_miss = false;
  bool at_site() const { return owner != Victim::kCoordinator; }
};

// The coordinator logs before it commits: the kill comes a moment before the commit or after it.
// Writes to one file may be told as one.
inline constexpr LogStep kLogSteps[] = {
    {".log: ", " job_submitted ", Victim::kCoordinator, 1},
    {".log: ", " round_opened ", Victim::kCoordinator, 3},
    {"/blocks/", "", Victim::kCoordinator, 7},
    {".log: ", " update_accepted ", Victim::kCoordinator, 6},
    {"/store.db-wal", "", Victim::kCoordinator, 6},
    {".log: ", " version_published ", Victim::kCoordinator, 3},
    {".log: ", " job_ended ", Victim::kCoordinator, 1},
    {"/generation", "", Victim::kSupervisor, 3},
    {".log: ", " process_ready name=gate", Victim::kGate, 1},
    {".log: ", " process_ready name=link", Victim::kLink, 1},
    {".log: ", " process_ready name=trainer", Victim::kTrainer, 1},
    {".log: ", " link: coordinator_connected", Victim::kLink, 1},
    {"/gate/state/job", "", Victim::kGate, 1},
    {".log: ", " gate: job_accepted ", Victim::kGate, 1, true},
    {"/gate/state/adapter", "", Victim::kGate, 4},
    {"/gate/inbox/", "", Victim::kGate, 4},
    {".log: ", " gate: adapter_stored ", Victim::kGate, 4, true},
    {"/gate/state/round", "", Victim::kGate, 3},
    {".log: ", " gate: round_started ", Victim::kTrainer, 3},
    {"/trainer/", "/round.json", Victim::kTrainer, 6},
    {"/trainer/", "/state/step-", Victim::kTrainer, 3},
    {".log: ", " trainer: round_trained ", Victim::kTrainer, 3, true},
    {"/gate/spool/", "", Victim::kGate, 3},
    {"/gate/ledger", "", Victim::kGate, 6},
    {"/gate/releases/", "", Victim::kGate, 3},
    {".log: ", " gate: update_released ", Victim::kLink, 3, true},
    {"/gate/receipts/", "", Victim::kGate, 3},
    {".log: ", " gate: receipt_stored ", Victim::kGate, 3, true},
    {".log: ", " job_ended ", Victim::kSupervisor, 1, true},
};
inline constexpr size_t kStepCount = std::size(kLogSteps);

struct PlannedKill {
  size_t step = 0;  // of kLogSteps
  size_t site = 0;  // whose step, or at which site the victim is
  Victim victim{};
  uint32_t occurrence = 1;   // the how manieth time
  int64_t delay_micros = 0;  // after it was seen
};

// One for each step, in their order.
std::vector<PlannedKill> PlanOf(uint64_t seed, size_t sites);

bool IsNewsOf(const LogStep& step, const std::string& news, const std::string& site);

}  // namespace tidegate::federation_processes
