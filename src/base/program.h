// What every program says of itself. Thread-safe.
#pragma once

namespace tidegate {

// Exit code for a command line that is wrong (docs/exit-codes.md).
inline constexpr int kExitUsage = 64;

// What programs that train are started with, as an environment variable: OpenMP's threads go to
// sleep after this many turns of waiting (some microseconds). The default waits for milliseconds,
// with which two processes that share cores take each other's time slices: a run then
// took 80 times as long (40 steps of a tiny model with two threads, load 13 on two cores).
inline constexpr const char* kOpenMpSpins[] = {"GOMP_SPINCOUNT", "2000"};

// "0.1.0", from the project's CMakeLists.txt.
const char* Version();

}  // namespace tidegate
