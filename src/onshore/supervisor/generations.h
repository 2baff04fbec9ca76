// Numbers for process starts: unique and growing, over restarts of the supervisor too.
#pragma once

#include <filesystem>

#include "base/status.h"

namespace tidegate::onshore {

// The number after the one in `file` (1 when there is no file), stored durably before it is used.
Result<uint32_t> NextGeneration(const std::filesystem::path& file);

}  // namespace tidegate::onshore
