// How a child of the supervisor is told to end in good order: kStop over the control pair, or a
// signal from a person or from systemd. Both are only noted; the process looks where all that it
// needs is on disk, and ends with 0. Linux; one thread looks.
#pragma once

#include <poll.h>

#include <array>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "onshore/ipc/control.h"

namespace tidegate::onshore {

// From here on SIGTERM, SIGINT and SIGHUP are noted instead of ending the process; they stay
// blocked in this thread, and in those it starts, but for the calls below. Once, before any thread.
void CatchStopSignals();

// Whether one has come.
bool StopSignalCame();

// Whether one has come, or the supervisor has said kStop. Never blocks; takes what waits on the
// control pair. kUnavailable when the supervisor is gone.
Result<bool> StopAsked();

// The gate: whether the supervisor has said kTrainerGone since it was last asked; among what
// StopAsked took.
bool TakeTrainerGone();

// The gate: what a client of the local API has said of a held update; among what StopAsked took, in
// its order.
struct PeoplesWord {
  uint32_t uid = 0, decision = 0;
  std::array<uint8_t, kDecisionDigestBytes> plaintext{};  // how its digest begins
  std::string reason;
};
std::optional<PeoplesWord> TakeDecision();

// poll(): until one of `fds` is ready, `timeout_millis` are over (-1: never) or a signal has come,
// which is not missed however late before the call it came. The control pair is the caller's to put
// into `fds`.
Status WaitFor(std::span<pollfd> fds, int timeout_millis);

}  // namespace tidegate::onshore
