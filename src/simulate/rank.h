// A rank of a simulation outside the walls: starts the walled trainer that plays its sites and adds
// what that trainer sums over all ranks. It sees no record, no model and no parameter. MPI and its
// launcher need all that the walls refuse; so they end here.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/collectives.h"

namespace tidegate::simulate {

// Runs argv (tidegate-trainer simulate …), which gets --rank and --ranks after its own words,
// standard error ours. What it prints goes to `output`. Returns its exit code; when that is not 0
// the group is aborted, so that the others do not wait. Errors: the trainer cannot be started or
// said what it must not, or the group failed; the trainer has ended then.
Result<int> PlayRank(std::vector<std::string> argv, cluster::Collectives& group, int output);

}  // namespace tidegate::simulate
