// Ranks that are threads of this process: for tests, for simulation and for one machine.
#pragma once

#include <memory>
#include <vector>

#include "cluster/collectives.h"

namespace tidegate::cluster {

inline constexpr int kMaxThreadRanks = 1024;

// One object a rank, in rank order, each to be handed to the thread that is this rank. They may be
// destroyed in any order; who still waits for one that is gone gets kUnavailable, naming it.
// kInvalidArgument for fewer than 1 or more than kMaxThreadRanks.
Result<std::vector<std::unique_ptr<Collectives>>> MakeThreadGroup(int size,
                                                                  const GroupOptions& options);

}  // namespace tidegate::cluster
