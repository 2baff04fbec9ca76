// Every process of a site tries, at each start, what it must not be able to do; and each try runs
// first in an unwalled control, because "refused" proves nothing about a machine on which it never
// worked. The tries are harmless where they succeed: bad descriptors, null pointers, signal 0.
//
// RunControl forks one child for each try, before RaiseWalls; RunWalled runs in the walled process
// itself, before LockDown and before any thread. About 150 tries. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/status.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::onshore {

// The real objects that this process must not reach.
struct ForbiddenFile {
  std::string name;  // [a-z0-9_], at most 24 characters: "key_file"
  std::string path;  // must exist and be readable without the walls
};
struct TryContext {
  Role role = Role::kTrainer;
  std::vector<ForbiddenFile> forbidden;
  pid_t sibling = 0;      // a live process of the same site, usually the supervisor
  bool chrooted = false;  // of the report; before the walls: whether a chroot is asked for
  // Where the control may make and remove a file.
  std::string scratch_directory = "/tmp";
  // Allowed paths that a person chose freely, canonical: a fixed try at or below one is left out.
  // (`readable` has the writable ones too.) A site's own are never on a tried path: none here.
  std::vector<std::filesystem::path> readable, writable;
};

// Whether `place` is one of the allowed paths or below one. By the letters alone: behind the walls
// nobody can look.
bool IsAllowed(const std::vector<std::filesystem::path>& allowed,
               const std::filesystem::path& place);

enum class Verdict : uint8_t {
  kRefused = 0,  // worked in the control, refused behind the walls
  kAbsent = 1,   // fails in the control too: the machine has no such thing, or forbids it itself
  kOpen = 2      // went through, or failed for a reason that is not a wall
};
std::string_view VerdictName(Verdict verdict);

// Crosses channels and enters ledgers as bytes. An outcome is 0 (it worked), an errno, or the
// negative number of the signal that ended the control.
struct TryRow {
  char name[39] = {};
  Verdict verdict = Verdict::kOpen;
  int32_t control = 0;
  int32_t walled = 0;
};
static_assert(std::is_trivially_copyable_v<TryRow> && sizeof(TryRow) == 48);
inline constexpr size_t kMaxTryRows = 512;

// Rows with the control's outcome; `walled` and `verdict` are not filled in yet.
Result<std::vector<TryRow>> RunControl(const TryContext& context);
// Fills in the rest. The context is that of the control, with `chrooted` from the report.
Status RunWalled(const TryContext& context, std::span<TryRow> rows);

// kPermissionDenied naming the open tries (at most 8 of them and their number).
Status CheckNoneOpen(std::span<const TryRow> rows);
// Whether nothing but landlock_fs, a chroot or file modes can refuse the try of this name.
bool IsFileTry(std::string_view name);
// Whether only a chroot can refuse the try and there is none: path metadata, which Landlock does
// not cover. The missing wall is named, and a policy may demand it.
bool IsLeftOpen(const WallReport& report, std::string_view name);

// A whole start: the control, the walls, those that are demanded, the same tries again, lock-down.
struct TestedSpec {
  WallSpec walls;
  TryContext tries;  // `role` and `chrooted` are filled in
  WallSet demanded;
  // Where the machine lacks landlock_fs and it is not demanded, file tries may be OPEN; the caller
  // says so. Otherwise one open try is an error, but for IsLeftOpen.
  bool files_may_be_open = false;
  // Called with the report once the walls are raised, also where a demanded one is missing then.
  std::function<void(const WallReport& report)> on_raised;
};
struct TestedWalls {
  WallReport report;
  std::vector<TryRow> rows;
};
// After an error the process must end. kPermissionDenied: a demanded wall is missing, or a try went
// through; both are named.
Result<TestedWalls> RaiseTestedWalls(TestedSpec spec);

}  // namespace tidegate::onshore
