// What a simulation leaves to be looked at. Functions of their arguments.
#pragma once

#include "onshore/trainer/simulation.h"

namespace tidegate::trainer {

// OUT/rounds.jsonl, the same bytes for any number of ranks; OUT/rounds.svg, losses by round; and
// OUT/rounds.html, with traffic and memory beside them.
Status WriteRounds(const std::filesystem::path& out, const SimulationResult& result);

}  // namespace tidegate::trainer
