// The groups of a strategy: what a site trains in a round, what of that it shares, and what it
// keeps.
//
// A layout's tensors are in group A or group B (documents.h). Both shores and the gate read a job
// by these functions, so that a job cannot mean one thing here and another there.
#pragma once

#include <cstdint>
#include <vector>

#include "protocols/documents.h"

namespace tidegate::protocols {

inline constexpr uint8_t kGroupA = 0, kGroupB = 1;
inline constexpr uint8_t kOnlyA = 1u << kGroupA, kOnlyB = 1u << kGroupB,
                         kBothGroups = kOnlyA | kOnlyB;

// What each phase shares (JobManifest::phase_groups): round r runs phase (r - 1) mod size.
//   FedIT (2305.05644)       A and B, averaged apart
//   FFA-LoRA (2403.12313)    B; A stays as the seed made it
//   RoLoRA (2502.01755)      B, then A, by turns: B first, since A has no gradient while B is 0
//   FedSA-LoRA (2410.01463)  A; each site has a B of its own
inline std::vector<uint8_t> PhasesOf(Strategy strategy) {
  switch (strategy) {
    case Strategy::kFedIt:
      return {kBothGroups};
    case Strategy::kFfaLora:
      return {kOnlyB};
    case Strategy::kRoLora:
      return {kOnlyB, kOnlyA};
    case Strategy::kFedSaLora:
      return {kOnlyA};
  }
  return {};
}

// What a site keeps to itself of the layout: its values go on from round to round, whatever the
// shared version has there.
inline uint8_t KeptGroups(Strategy strategy) {
  return strategy == Strategy::kFedSaLora ? kOnlyB : uint8_t{0};
}

// What a site trains in a round whose phase shares `shared`.
inline uint8_t TrainedGroups(Strategy strategy, uint8_t shared) {
  return static_cast<uint8_t>(shared | KeptGroups(strategy));
}

// Whether there are groups that a site does not train in every round.
inline bool Freezes(Strategy strategy) {
  for (const uint8_t shared : PhasesOf(strategy)) {
    if (TrainedGroups(strategy, shared) != kBothGroups) return true;
  }
  return false;
}

// Whether a site takes something of a round into the next: then that one begins when the receipt of
// the one before is there.
inline bool CarriesOver(const JobManifest& job) {
  return job.error_feedback || job.late == LateRule::kCarry;
}

}  // namespace tidegate::protocols
