// Runs CUDA kernels without a GPU. Queued work runs where the host waits for it, one block at a
// time, each CUDA thread a fiber. Not thread-safe: one host thread.
//
// Checked: a barrier reached from two places or not by all threads of a block, a warp operation
// that not all lanes reach or that they reach from two places, launches beyond what the hardware
// takes. Shown by wrong values or by AddressSanitizer: missing barriers (warps run as far ahead as
// barriers let them, in an order drawn from the seed), copies read before they were waited for
// (they land as late as allowed, or at once), shared memory used before it is written (it begins as
// NaN, as device memory does), everything out of bounds, and device memory touched by the host.
// Not modelled: unordered updates between blocks, weak memory, speed.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace tidegate::kernels::simt {

// What a kernel did that no kernel may do.
class SimtError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// In which order threads run: 0 ascending, 1 descending, others drawn from the number as a seed.
void SetSchedule(uint64_t schedule);
// From TIDEGATE_SIMT_SCHEDULE, else 0.
uint64_t ScheduleOfEnvironment();

// Runs a grid now. Fake streams call it.
struct Grid;
void RunGrid(const Grid& grid);

// Queues work on a stream as if the device did it.
void EnqueueWork(cudaStream_t stream, std::function<void()> work);

}  // namespace tidegate::kernels::simt
