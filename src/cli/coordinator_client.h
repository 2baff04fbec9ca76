// How verbs ask a coordinator: as admin/coordinator_client.h, by a one-shot run of the
// tidegate-coordinator beside this program where none runs. Not thread-safe.
#pragma once

#include "admin/coordinator_client.h"

namespace tidegate::cli {

using admin::kAskMillis;

Result<nlohmann::ordered_json> AskCoordinator(const std::filesystem::path& dir,
                                              const nlohmann::ordered_json& request,
                                              int64_t millis = kAskMillis);

}  // namespace tidegate::cli
