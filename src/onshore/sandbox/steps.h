// The steps behind RaiseWalls, one function each, in the order of the sequence. Internal to the
// module. A step that a machine may lack writes its row of the report; a returned error ends the
// process.
#pragma once

#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "onshore/sandbox/wall_faults.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::onshore {

void MarkUp(WallReport& report, Wall wall);
void MarkMissing(WallReport& report, Wall wall, std::string_view step, int error);

// Steps 4 to 6 (namespaces.cc). RaiseNetns leaves a user namespace of one uid where the process
// has no CAP_SYS_ADMIN.
Status RaiseNetns(const KernelCalls& kernel, WallReport& report);
Status RaiseChroot(const WallSpec& spec, const KernelCalls& kernel, WallReport& report);

// Steps 7 to 11 (privileges.cc).
Status DropPrivileges(const WallSpec& spec, const KernelCalls& kernel, WallReport& report);
Status DieWithParent(const WallSpec& spec, const KernelCalls& kernel);
Status LimitSelf(const WallSpec& spec, const KernelCalls& kernel, WallReport& report);

// Step 12 (landlock.cc). The allowed paths are opened before the chroot and given as descriptors,
// which AllowPaths closes.
struct PathGrant {
  Fd fd;
  uint64_t access = 0;  // LANDLOCK_ACCESS_FS_*, before masking by ABI
};
Result<std::vector<PathGrant>> OpenGrants(const WallSpec& spec);
Status RaiseLandlock(std::vector<PathGrant> grants, const WallFaults& faults, WallReport& report);

// Step 14 (seccomp_filters.cc).
Status LoadStartUpFilter();
Status LoadAllowlist(const WallSpec& spec, const WallFaults& faults);

}  // namespace tidegate::onshore
