// The coordinator process: sockets, signals and the loop around Coordinator.
#pragma once

#include <filesystem>

#include "base/status.h"

namespace tidegate::offshore {

// Runs until SIGTERM or SIGINT (then OK), or until something is wrong that a restart may mend:
// the disk, the address. Blocks these signals in the calling thread; call once, with one thread.
Status Serve(const std::filesystem::path& dir);

}  // namespace tidegate::offshore
