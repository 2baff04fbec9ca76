// The walls of a local verb: no network, no other file than those it names. Not thread-safe; call
// with one thread, before anything private is opened.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::trainer {

inline constexpr std::string_view kDefaultWalls = "netns,seccomp,landlock_fs";

struct LocalWalls {
  std::string demanded = std::string(kDefaultWalls);  // names as in policies, or "none"
  std::vector<std::filesystem::path> read_only;
  std::vector<std::filesystem::path> read_write;
  std::vector<int> kept_files;                 // inherited: regular files open for reading only
  std::vector<std::filesystem::path> secrets;  // that must stay out of reach whatever is named
  uint32_t uid = 0;                            // a start as root: the uid to become
  bool gpu = false;                            // CUDA starts behind the walls (gpu_walls.h)

  bool none() const { return demanded == "none"; }
};

// Whether `demanded` is "none" or names that exist.
Status CheckWallNames(const std::string& demanded);

// Raises all walls that the machine has, tries what they must refuse (onshore/sandbox/self_test.h)
// and returns their names ("netns seccomp ..."). A demanded one that is missing is
// kPermissionDenied naming it, the reason and the remedy; other missing ones are logged. A try that
// gets through is kPermissionDenied naming it; on a machine without landlock_fs, where that is not
// demanded, tries of files are logged instead. With "none": a loud warning and the text "none".
Result<std::string> RaiseLocalWalls(const LocalWalls& walls, pid_t parent);

}  // namespace tidegate::trainer
