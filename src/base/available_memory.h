// How much memory a process may still take. Thread-safety: no shared state.
#pragma once

#include <cstdint>

#include "base/status.h"

namespace tidegate {

// Bytes that can be used now without swapping: the least of MemAvailable and what the control
// group has left. Reads /proc and /sys, so before walls are raised.
Result<uint64_t> AvailableMemory();

}  // namespace tidegate
