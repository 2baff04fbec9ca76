// A ledger as a page for a regulator: self-contained HTML, in English and Chinese. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace tidegate::cli {

// `leaves`: LeafJson of every leaf, in order. `verification`: what `ledger verify` prints; its
// head_covers is null when no receipt from elsewhere was given, and the page says so.
std::string LedgerReport(const nlohmann::ordered_json& leaves,
                         const nlohmann::ordered_json& verification);

}  // namespace tidegate::cli
