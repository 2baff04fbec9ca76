// The coordinator's half of the air gap (docs/formats/air-gap.md): what sites' carriers put into a
// folder is taken as if their links had sent it, and what the coordinator has to say to each site
// is written there.
//
// What is written is a function of the coordinator's state and of what lies in up/, so an exchange
// that was cut off at any moment is simply made again. Not thread-safe.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "offshore/coordinator.h"

namespace tidegate::offshore {

// One turn of the coordinator with this in it; gives what it says then. An error ends the process.
using TurnFunction =
    std::function<Result<std::vector<Outgoing>>(const std::function<Status()>& what)>;
// What a turn says to a site that is connected over a network.
using DeliverFunction = std::function<void(const Outgoing&)>;

// {"folder", "sites": [{"site", "state", "offers", "receipts", "late", "refused": [{"file",
// "reason"}], "messages"}], "not_enrolled": [name], "blocks": {"written", "removed", "kept"}}.
// `refused` anywhere: the folder has something wrong, and the rest was done. An error is the
// folder's as a whole (not there, full); with `fatal` set it is the coordinator's own.
Result<nlohmann::ordered_json> Exchange(Coordinator& coordinator,
                                        const std::filesystem::path& folder,
                                        const TurnFunction& turn, const DeliverFunction& deliver,
                                        Status* fatal);

// {"verb": "exchange", "folder": …}; nothing for any other request.
Result<std::optional<std::filesystem::path>> ExchangeFolderOf(const nlohmann::json& request);

}  // namespace tidegate::offshore
