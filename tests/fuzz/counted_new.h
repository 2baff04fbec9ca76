// A bound on what operator new may hold, for the driver. Does nothing under sanitizers, which have
// an operator new of their own.
#pragma once

#include <cstddef>

namespace tidegate::fuzz {

// From now on at most `bytes` more than now may be held; over it the program ends and says so. 0:
// no bound.
void LimitHeldMemory(size_t bytes);

}  // namespace tidegate::fuzz
