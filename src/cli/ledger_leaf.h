// A ledger's leaf for `ledger show`: all that it says, as JSON and as text. Pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "gate/ledger_entry.h"

namespace tidegate::cli {

// Every field of the leaf; "line" is its one line for a list. A body that does not decode has
// "problem" instead of fields.
nlohmann::ordered_json LeafJson(const gate::LedgerEntry& entry);

// The same as text: a line a field; texts of many lines and lists come last, indented.
std::string LeafInFull(const nlohmann::ordered_json& leaf);

}  // namespace tidegate::cli
