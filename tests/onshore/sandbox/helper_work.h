// What each role has to be able to do behind its walls, and what must end it after LockDown.
#pragma once

#include <string>

#include "base/status.h"
#include "tests/onshore/sandbox/helper_options.h"

namespace tidegate::onshore {

Status TrainerWork(const std::string& directory);
Status GateWork(const std::string& directory);
// Files and blocks of an air-gap folder, as the real code reads and writes them.
Status CarrierWork(const std::string& directory);
// A CURVE request to a server that the address pin leads to; dials another address on purpose.
Status LinkWork(const HelperOptions& options);
// The server of LinkWork, unwalled: says "PORT PUBLIC_KEY" and echoes requests for ever.
[[noreturn]] void RunCurveServer();

// The address pin seen from inside: each step as "name=errno".
std::string ProbePin();

// One forbidden system call by name; its errno, if it comes back.
int Attack(const std::string& name);

}  // namespace tidegate::onshore
