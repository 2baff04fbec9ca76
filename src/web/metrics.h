// A coordinator's status as Prometheus' text format, version 0.0.4. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace tidegate::web {

// `status` is what `tidegate status --format json` prints. What is not in it has no sample.
std::string MetricsText(const nlohmann::ordered_json& status);

}  // namespace tidegate::web
