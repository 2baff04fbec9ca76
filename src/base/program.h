// What every program says of itself. Thread-safe.
#pragma once

namespace tidegate {

// Exit code for a command line that is wrong (docs/exit-codes.md).
inline constexpr int kExitUsage = 64;

// "0.1.0", from the project's CMakeLists.txt.
const char* Version();

}  // namespace tidegate
