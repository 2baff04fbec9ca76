// What every backend of Collectives must do, as a list that a test of each runs: on every rank at
// once, in the order of the list, on one group.
#pragma once

#include <span>
#include <string_view>

#include "cluster/collectives.h"

namespace tidegate::cluster {

struct Case {
  std::string_view name;
  // OK, or what was wrong on this rank.
  Status (*run)(Collectives& group);
  // Holds for backends that add in rank order alone.
  bool ordered_sums = false;
};

std::span<const Case> Cases();
// All of them; the group is aborted where one fails.
Status RunAllCases(Collectives& group);

// A group is over after one of these; each needs its own.
//
// Rank 1 of at least 2 calls something else: all must fail with kFailedPrecondition and both calls'
// names.
Status RunMismatchedTag(Collectives& group);
Status RunMismatchedCount(Collectives& group);
// The last rank ends the group: all the others, and all later calls, are kCancelled with the
// reason.
Status RunAbort(Collectives& group);
// The last rank never calls: the others get kDeadlineExceeded, or kCancelled from the rank that
// noticed it, which names it.
Status RunLateRank(Collectives& group);

}  // namespace tidegate::cluster
