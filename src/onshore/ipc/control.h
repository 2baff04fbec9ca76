// What the supervisor and its children say: fixed structs of numbers, copied as they lie. The
// supervisor parses nothing else, holds no key, no record and no policy.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

namespace tidegate::onshore {

enum class ControlType : uint32_t {
  kReady = 1,        // child → supervisor: walls are up and tried; waits for GO
  kGo = 2,           // supervisor → child
  kNeedTrainer = 4,  // gate → supervisor: a job wants one (idempotent)
  kJobEnded = 5,  // gate → supervisor: the trainer will exit by itself; argument 0: the version
  kEvent = 6,     // child → supervisor: a log line's code and numbers
  kStop = 7,      // supervisor → child: end in good order
};

// Log lines as numbers; the supervisor has the texts. Never reuse a number.
enum class EventCode : uint32_t {
  kJobAccepted = 1,      // rounds
  kJobRefused = 2,       // rule
  kRoundStarted = 3,     // round, adapter version
  kUpdateReleased = 4,   // round, bytes, ledger index
  kUpdateRefused = 5,    // round, rule
  kReceiptStored = 6,    // round, outcome
  kAdapterStored = 7,    // version
  kConnected = 8,        //
  kDisconnected = 9,     //
  kTrained = 10,         // round, steps, loss in thousandths
  kEvaluated = 11,       // version, held-out loss before and after in thousandths, kept
  kInputRefused = 12,    // wire message type
  kWallMissing = 13,     // wall
  kReleaseRefused = 14,  // round, code: the coordinator will never take it
  kUpdateHeld = 15,      // round, bytes: until the site's people release it
};

struct ControlMessage {
  ControlType type{};
  uint32_t generation = 0;
  uint32_t code = 0;  // kReady: set of walls raised, a bit each; kEvent: EventCode
  uint32_t reserved = 0;
  std::array<int64_t, 4> arguments{};
};
static_assert(std::is_trivially_copyable_v<ControlMessage> && sizeof(ControlMessage) == 48);

// Descriptors every child inherits.
inline constexpr int kControlFd = 3;
inline constexpr int kFirstPeerFd = 4;   // trainer: gate. gate: trainer. link: gate
inline constexpr int kSecondPeerFd = 5;  // gate: link

}  // namespace tidegate::onshore
