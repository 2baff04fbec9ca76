// Ranks that mpirun, srun or another launcher of MPI started. Before data moves, every rank tells
// rank 0 what it calls, so that a mismatch and a rank that stays away are named.
//
// A build without MPI has this function as well: it returns kUnsupported and says what to install.
#pragma once

#include <memory>

#include "cluster/collectives.h"

namespace tidegate::cluster {

// Starts MPI (MPI_THREAD_SERIALIZED) and joins its world; once in the life of a process. Joining
// itself waits as long as the launcher lets it. Destroying the group is a call like the others:
// when it ended in time, MPI is finalised. After a failure it is not, and the process should exit
// with an error: launchers then end the other ranks.
Result<std::unique_ptr<Collectives>> JoinMpi(const GroupOptions& options);

// Whether this build has MPI.
bool HasMpi();

}  // namespace tidegate::cluster
