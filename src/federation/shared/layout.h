// The layout of an adapter as both shores see it: names, shapes and groups, in buffer order.
#pragma once

#include "base/bytes.h"
#include "model/adapter.h"
#include "protocols/documents.h"

namespace tidegate::federation {

inline constexpr uint8_t kGroupA = 0, kGroupB = 1;
inline constexpr uint8_t kBothGroups = 1u << kGroupA | 1u << kGroupB;

// Group 0: A, group 1: B. kResourceExhausted when it is over the protocol's limits.
Result<protocols::Layout> LayoutOf(const model::Adapter& adapter);

}  // namespace tidegate::federation
