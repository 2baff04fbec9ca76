#include "onshore/trainer/walls.h"

#include "base/log.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::trainer {

Status CheckWallNames(const std::string& demanded) {
  if (demanded == "none") return OkStatus();
  const Result<onshore::WallSet> set = onshore::ParseWallSet(demanded);
  if (!set) return set.error().WithContext("--walls");
  return OkStatus();
}

Result<std::string> RaiseLocalWalls(const LocalWalls& walls, pid_t parent) {
  if (walls.none()) {
    LogWarning(
        "NO WALLS: this process opens private records with full network and file access, "
        "because --walls none was given");
    return std::string("none");
  }
  TG_ASSIGN_OR_RETURN(const onshore::WallSet demanded, onshore::ParseWallSet(walls.demanded));
  onshore::WallSpec spec;
  spec.role = onshore::Role::kTrainer;
  spec.read_only = walls.read_only;
  spec.read_write = walls.read_write;
  spec.expected_parent = parent;
  TG_ASSIGN_OR_RETURN(const onshore::WallReport report, onshore::RaiseWalls(spec));
  for (const std::string& line : report.Missing()) LogWarning("wall_missing {}", line);
  const Status status = onshore::CheckDemanded(demanded, report);
  if (!status.ok()) {
    return Unexpected(
        Status(status.code(), status.message() + "; to run without it, leave it out of --walls"));
  }
  TG_RETURN_IF_ERROR(onshore::LockDown(onshore::Role::kTrainer));
  return report.Up().ToString();
}

}  // namespace tidegate::trainer
