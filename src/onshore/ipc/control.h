// What the supervisor and its children say: fixed structs of numbers, copied as they lie. The
// supervisor parses nothing else but the local API's (onshore/api), holds no key, no record and no
// policy.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "onshore/api/events.h"

namespace tidegate::onshore {

enum class ControlType : uint32_t {
  kReady = 1,        // child → supervisor: walls are up and tried; waits for GO
  kGo = 2,           // supervisor → child
  kNeedTrainer = 4,  // gate → supervisor: a job wants one (idempotent)
  kJobEnded = 5,  // gate → supervisor: the trainer will exit by itself; argument 0: the version
  kEvent = 6,     // child → supervisor: a log line's code and numbers
  kStop = 7,      // supervisor → child: end in good order
  kTrainerGone = 8,  // supervisor → gate: it has ended and is not started again for now
  kJobIs = 9,        // gate → supervisor: the job's id in arguments 0 and 1, its rounds in 2
  kJobName = 10,     // gate → supervisor: 32 bytes of its name; code: which ones
  // gate → supervisor: arguments: round and adapter version (-1: none), bytes in the spool, the
  // round that is held (-1: none); code: exports without a receipt
  kGateState = 11,
  // supervisor → gate, of a client: 32 bytes of a reason (code: which ones, from 0; at least
  // these), then the decision: code (gate::Decision), arguments: uid, and how the update's digest
  // begins
  kReason = 12,
  kDecision = 13,
};

struct ControlMessage {
  ControlType type{};
  uint32_t generation = 0;
  uint32_t code = 0;  // kReady: set of walls raised, a bit each; kEvent: EventCode
  uint32_t reserved = 0;
  std::array<int64_t, 4> arguments{};
};
static_assert(std::is_trivially_copyable_v<ControlMessage> && sizeof(ControlMessage) == 48);

// Bytes of the digest that a kDecision carries: as hard to meet by chance as the whole.
inline constexpr size_t kDecisionDigestBytes = 24;

// Descriptors every child inherits.
inline constexpr int kControlFd = 3;
inline constexpr int kFirstPeerFd = 4;   // trainer: gate. gate: trainer. link: gate
inline constexpr int kSecondPeerFd = 5;  // gate: link

}  // namespace tidegate::onshore
