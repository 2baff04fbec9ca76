// One rank of the MPI tests: `mpirun -n N mpi_rank FOLDER CASE DEADLINE_MS`. Writes what it found
// to FOLDER/RANK: "ok", or what was wrong. (mpirun ends all ranks when one exits after its group
// failed, so they wait for each other's files first.)
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>

#include "base/file.h"
#include "cases.h"
#include "cluster/mpi_group.h"

namespace tidegate::cluster {
namespace {

// The last rank dies as the others wait for it. Nobody writes a file: mpirun ends them.
Status RunKilled(Collectives& group) {
  TG_RETURN_IF_ERROR(group.Barrier("start"));
  if (group.rank() == group.size() - 1) kill(getpid(), SIGKILL);
  TG_RETURN_IF_ERROR(group.Barrier("never"));
  return Internal("a barrier ended without a rank");
}

Status Run(std::string_view name, Collectives& group) {
  if (name == "all") return RunAllCases(group);
  if (name == "tag") return RunMismatchedTag(group);
  if (name == "count") return RunMismatchedCount(group);
  if (name == "abort") return RunAbort(group);
  if (name == "late") return RunLateRank(group);
  if (name == "killed") return RunKilled(group);
  return InvalidArgument("there is no case {}", name);
}

bool AllWrote(const std::filesystem::path& folder, int size) {
  for (int r = 0; r < size; ++r) {
    if (!std::filesystem::exists(folder / std::to_string(r))) return false;
  }
  return true;
}

int Main(char** argv) {
  const std::filesystem::path folder = argv[1];
  auto group = JoinMpi({.deadline = std::chrono::milliseconds(std::stoi(argv[3]))});
  if (!group) {
    std::fprintf(stderr, "%s\n", group.error().ToString().c_str());
    return 1;
  }
  const int rank = (*group)->rank();
  const Status status = Run(argv[2], **group);
  const std::string found = status.ok() ? "ok" : status.ToString();
  std::fprintf(stderr, "rank %d: %s\n", rank, found.c_str());
  if (!WriteFileDurably(folder / std::to_string(rank), AsBytes(found)).ok()) return 1;
  for (int i = 0; i < 1000 && !AllWrote(folder, (*group)->size()); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace tidegate::cluster

int main(int argc, char** argv) { return argc == 4 ? tidegate::cluster::Main(argv) : 64; }
