#include "onshore/trainer/walls.h"

#include <algorithm>

#include "base/log.h"
#include "onshore/sandbox/self_test.h"
#include "onshore/trainer/gpu_walls.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;

fs::path Canonical(const fs::path& path) {
  std::error_code error;
  fs::path whole = fs::canonical(path, error);
  return error ? path : whole;
}

// The person chose the paths. Beside them, the folder that an input lies in is not to be read.
onshore::TryContext TriesOf(const LocalWalls& walls, pid_t parent) {
  onshore::TryContext tries;
  tries.sibling = parent;
  tries.scratch_directory = Canonical(tries.scratch_directory).native();
  for (const fs::path& path : walls.read_only) tries.readable.push_back(Canonical(path));
  for (const fs::path& path : walls.read_write) tries.writable.push_back(Canonical(path));
  tries.readable.insert(tries.readable.end(), tries.writable.begin(), tries.writable.end());
  for (const fs::path& path : walls.secrets) {
    tries.forbidden.push_back({fmt::format("secret_{}", tries.forbidden.size()), path.native()});
  }
  for (const fs::path& path : tries.readable) {
    const fs::path folder = path.parent_path();
    const bool known = std::any_of(
        tries.forbidden.begin(), tries.forbidden.end(),
        [&folder](const onshore::ForbiddenFile& file) { return file.path == folder.native(); });
    if (known || onshore::IsAllowed(tries.readable, folder)) continue;
    tries.forbidden.push_back({fmt::format("folder_{}", tries.forbidden.size()), folder.native()});
  }
  return tries;
}

}  // namespace

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
  onshore::TestedSpec spec;
  TG_ASSIGN_OR_RETURN(spec.demanded, onshore::ParseWallSet(walls.demanded));
  spec.walls.role = onshore::Role::kTrainer;
  spec.walls.read_only = walls.read_only;
  spec.walls.read_write = walls.read_write;
  for (const int fd : walls.kept_files) {
    spec.walls.kept_fds.push_back({fd, onshore::FdKind::kReadOnlyFile});
  }
  if (walls.gpu) AllowGpu(&spec.walls);
  if (walls.uid != 0) spec.walls.uid = spec.walls.gid = walls.uid;
  spec.walls.expected_parent = parent;
  spec.tries = TriesOf(walls, parent);
  spec.files_may_be_open = true;
  const Result<onshore::TestedWalls> tested = onshore::RaiseTestedWalls(spec);
  if (!tested) {
    const Status& status = tested.error();
    if (status.code() != Code::kPermissionDenied) return Unexpected(status);
    return Unexpected(Status(status.code(), status.message() +
                                                "; to run without a wall, leave it out of --walls; "
                                                "--walls none runs without any, and says so"));
  }
  for (const std::string& line : tested->report.Missing()) LogWarning("wall_missing {}", line);
  for (const onshore::TryRow& row : tested->rows) {
    if (row.verdict == onshore::Verdict::kOpen) {
      LogWarning("try_open {}: nothing refuses it without landlock_fs", row.name);
    }
  }
  return tested->report.Up().ToString();
}

}  // namespace tidegate::trainer
