// How a child of the supervisor starts: control tries, walls, walled tries, lock-down, READY, GO.
// The same for trainer, gate and link. Linux; one thread; after an error the process must end.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "onshore/ipc/control.h"
#include "onshore/sandbox/self_test.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::onshore {

struct StartSpec {
  WallSpec walls;              // kept_fds without the control descriptor, which is added
  WallSet demanded;            // a missing one is an error that names it
  TryContext tries;            // role, forbidden objects; sibling is filled in with the parent
  std::string pinned_address;  // link, for the statement
  std::string proxy;           // on the way there, if any
  uint32_t generation = 0;
  // A start as root: this uid and gid for the process, and for `owned` with all below it, where
  // nobody else may look then.
  uint32_t uid = 0;
  std::vector<std::filesystem::path> owned;
};

struct Started {
  WallReport report;
  std::string statement;  // docs/formats/isolation-statement.md
};

// On success the process is walled, every try was refused or is absent, the supervisor has READY
// (its `code` is the set of walls that stand) and has answered GO. kDeadlineExceeded when GO does
// not come within a minute, kCancelled when the supervisor says kStop or a signal does (stop.h),
// kUnavailable when its end is closed.
Result<Started> StartWalled(StartSpec spec);

// Gives a folder and all below it to `uid` and nobody else. Links below it are not followed.
Status Own(const std::filesystem::path& path, uint32_t uid);

// One struct over the control pair. Send never blocks: kUnavailable when the supervisor is gone.
Status SendControl(ControlType type, uint32_t generation, uint32_t code,
                   std::array<int64_t, 4> arguments = {});
// An event for the supervisor's log; lost when the pair is full.
void SendEvent(EventCode code, uint32_t generation, std::array<int64_t, 4> arguments);
// What the supervisor said, or nothing. kUnavailable when the pair is closed.
Result<std::optional<ControlMessage>> ReceiveControl();

}  // namespace tidegate::onshore
