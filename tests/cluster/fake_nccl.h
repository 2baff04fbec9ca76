// NCCL's functions over threads of this process and the host's memory, as non-blocking as the real
// ones: a call is queued and runs later, a communicator is at work until all ranks have joined.
#pragma once

#include <atomic>

#include "cluster/nccl_group.h"

namespace tidegate::cluster {

const NcclApi& FakeNccl();

// A stream of the fake: how many calls are queued on it.
struct FakeStream {
  std::atomic<int> queued = 0;
  NcclStream Use() {
    return {.handle = this, .idle = [this]() -> Result<bool> { return queued == 0; }};
  }
};

// What the fake's next communicators do on this thread: fail to join, or say after joining that a
// peer is lost.
struct FakeFaults {
  NcclResult join = kNcclSuccess;
  std::atomic<bool>* peer_lost = nullptr;
};
FakeFaults& FaultsOfThisThread();

}  // namespace tidegate::cluster
