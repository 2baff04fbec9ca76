// Walls around a trainer on a GPU, in two stages. CUDA's driver cannot start behind the trainer's
// walls: it listens on an abstract socket, makes memory files, starts threads. So stage A lets it,
// behind everything but the strict filter (no file but those named here, an empty network
// namespace, no connect, no process, no socket of another family); then the strict filter is laid
// on every thread, the driver's among them, and the self-test tries it. Records are opened after
// that.
//
// What stays open is the driver's ioctl on the GPU's device nodes: these walls are no defence
// against a mistake in the driver (SECURITY.md). Linux. Not thread-safe.
#pragma once

#include "base/status.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::trainer {

// Adds what CUDA needs to the walls that this process is about to raise: the device nodes and files
// that are there, and its start. Opens CUDA's libraries, which could not be opened later. Call with
// one thread.
void AllowGpu(onshore::WallSpec* walls);

}  // namespace tidegate::trainer
