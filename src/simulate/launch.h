// Ranks on this machine: mpirun as a child. One in a process.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::simulate {

// Runs argv[0] of PATH and waits. Its exit code, 128 + signal for one that ended it. SIGINT,
// SIGTERM and SIGHUP are passed on, and it ends with us whatever happens: kCancelled then.
// kUnavailable when there is no such program.
Result<int> RunLauncher(std::vector<std::string> argv);

}  // namespace tidegate::simulate
