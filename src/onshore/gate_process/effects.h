// Short ways to make effects; private to this module.
#pragma once

#include "onshore/gate_process/gate_core.h"

namespace tidegate::onshore {

inline TellSupervisor Event(EventCode code, std::array<int64_t, 4> arguments = {}) {
  return {ControlType::kEvent, static_cast<uint32_t>(code), arguments};
}

template <typename Message>
SendMessage Say(To to, IpcType type, const Message& message) {
  return {to, type, protocols::Encode(message)};
}

}  // namespace tidegate::onshore
