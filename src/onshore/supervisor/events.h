// The texts of the children's log events (onshore/ipc/control.h): the children say numbers alone.
#pragma once

#include <string>

#include "onshore/ipc/control.h"

namespace tidegate::onshore {

// "update_released round=3 bytes=4912345 ledger_index=17"; "unknown_event code=99" for others.
std::string EventText(uint32_t code, const std::array<int64_t, 4>& arguments);

}  // namespace tidegate::onshore
