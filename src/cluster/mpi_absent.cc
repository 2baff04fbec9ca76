// Compiled in place of mpi_group.cc where MPI is not installed.
#include "cluster/mpi_group.h"

namespace tidegate::cluster {

bool HasMpi() { return false; }

Result<std::unique_ptr<Collectives>> JoinMpi(const GroupOptions&) {
  return Unsupported(
      "this build has no MPI: install libopenmpi-dev and openmpi-bin, then configure and build "
      "again, or run one rank");
}

}  // namespace tidegate::cluster
