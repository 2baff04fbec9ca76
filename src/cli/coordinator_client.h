// Asking a coordinator on this machine: through its unix socket while it runs, else by a one-shot
// run of tidegate-coordinator on its folder. Not thread-safe.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/status.h"

namespace tidegate::cli {

inline constexpr int64_t kAskMillis = 60'000;

// The verb's answer, or the error that the coordinator gave. kNotFound when DIR is no coordinator's
// folder, kDeadlineExceeded after `millis`.
Result<nlohmann::ordered_json> AskCoordinator(const std::filesystem::path& dir,
                                              const nlohmann::ordered_json& request,
                                              int64_t millis = kAskMillis);

}  // namespace tidegate::cli
