// What a client wrote is read by a process without rights: a start as root has the trainer's walls
// and uid only later.
#pragma once

#include <cstdint>
#include <functional>

#include "base/bytes.h"
#include "base/status.h"

namespace tidegate::trainer {

// What `work` returns in a process of its own that is this user for good, in no group but the
// user's, without capabilities; at most `most` bytes, else kResourceExhausted. kPermissionDenied
// where this process cannot become the user, kInternal when the other one ended without an answer
// (half a minute of computing, or over its memory). Linux; one thread.
Result<Bytes> RunAsUser(uint32_t uid, size_t most, const std::function<Bytes()>& work);

}  // namespace tidegate::trainer
