// Looks for bytes in each block of memory that this program gives back.
#pragma once

#include <functional>

#include "base/bytes.h"

namespace tidegate::crypto {

// How many of the blocks that `work` frees hold `needle`; -1 when it frees none, so that nothing
// was watched. What libraries take from malloc is not seen. For one thread.
int FreedWith(ByteSpan needle, const std::function<void()>& work);

}  // namespace tidegate::crypto
