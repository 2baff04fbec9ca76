// Asking a coordinator on this machine: through its unix socket while it runs, else, where a
// program is given, by a one-shot run of tidegate-coordinator on its folder. Not thread-safe.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/status.h"

namespace tidegate::admin {

inline constexpr int64_t kAskMillis = 60'000;

struct Asking {
  int64_t millis = kAskMillis;
  // Ends the wait with kCancelled when it can be read; -1: none.
  int cancel = -1;
  // tidegate-coordinator, for a folder that nobody serves; empty: kUnavailable then.
  std::filesystem::path program{};
};

// The verb's answer, or the error that the coordinator gave. kNotFound when DIR is no coordinator's
// folder, kDeadlineExceeded after `millis`.
Result<nlohmann::ordered_json> AskCoordinator(const std::filesystem::path& dir,
                                              const nlohmann::ordered_json& request,
                                              const Asking& asking);

}  // namespace tidegate::admin
