// The layout of an adapter as both shores see it: names, shapes and groups, in buffer order.
#pragma once

#include "base/bytes.h"
#include "model/adapter.h"
#include "protocols/strategy.h"

namespace tidegate::federation {

using protocols::kBothGroups;
using protocols::kGroupA;
using protocols::kGroupB;

// The shared adapter's shape as the job says it.
model::LoraConfig LoraOf(const protocols::JobManifest& job);

// Group 0: A, group 1: B. kResourceExhausted when it is over the protocol's limits.
Result<protocols::Layout> LayoutOf(const model::Adapter& adapter);

}  // namespace tidegate::federation
