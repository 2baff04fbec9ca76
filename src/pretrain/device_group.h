// How gradients and weights travel between ranks that each have a GPU: NCCL, on a stream of its
// own. Not thread-safe.
#pragma once

#include <memory>

#include "base/status.h"
#include "cluster/collectives.h"
#include "kernels/table.h"

namespace tidegate::pretrain {

// Before anything asks for a GPU: of those that CUDA_VISIBLE_DEVICES names (all, where it names
// none) this process sees the one with its number among the ranks on this machine.
void SeeOneGpu(int local_rank);

// All ranks of `control` call this together, each on its GPU. kUnsupported where there is no NCCL,
// kUnavailable naming a rank that could not join.
Result<std::unique_ptr<cluster::Collectives>> JoinGpus(
    std::shared_ptr<cluster::Collectives> control, const cluster::GroupOptions& options);

}  // namespace tidegate::pretrain
