// Starts the walled part of a local verb.
//
// A walled process may hold nothing but pipes and /dev/null, and dies with its parent; a user's
// terminal is neither. So the program forks while it has one thread and has opened nothing: the
// parent keeps the terminal, copies the child's output to it, hands it the signals and returns its
// exit code; the child raises the walls and opens the records. Linux; not thread-safe.
#pragma once

#include <sys/types.h>

#include <functional>

#include "base/status.h"

namespace tidegate::trainer {

// Runs `body` in a child whose 0 is /dev/null and whose 1 and 2 are pipes to ours, with the
// parent's process id. With `reads_input` 0 is a pipe too, into which the parent copies its own.
// SIGINT, SIGTERM and SIGHUP reach the child. Returns the exit code of `body`, or one for the
// signal that ended the child, said on standard error: kCancelled's for those three,
// kResourceExhausted's for SIGKILL, kInternal's for others. Errors: the system's, when there can be
// no child; kUnavailable when `body` went well and standard output did not take what it wrote.
Result<int> RunInChild(const std::function<int(pid_t parent)>& body, bool reads_input = false);

}  // namespace tidegate::trainer
