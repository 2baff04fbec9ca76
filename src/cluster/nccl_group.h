// Ranks with a GPU each. Pointers are to the device's memory; calls are queued on a stream and
// Finish waits for them. Communicators are non-blocking: each wait polls NCCL's asynchronous error,
// and the deadline aborts what would hang.
//
// Another group (MPI, TCP, threads) hands out NCCL's id, carries Barrier, and tells every rank
// whether all have joined. NCCL adds in an order of its own, the same from run to run on one
// machine at most.
#pragma once

#include <functional>
#include <memory>

#include "cluster/checked_collectives.h"
#include "cluster/nccl_api.h"

namespace tidegate::cluster {

// The device's queue that the calls go to (a cudaStream_t). The calling thread's current device is
// the stream's.
struct NcclStream {
  NcclStreamHandle handle = nullptr;
  // Whether everything that was queued on it is done (cudaStreamQuery).
  std::function<Result<bool>()> idle;
};

class NcclGroup : public CheckedCollectives {
 public:
  // Leaves the communicator, which can no longer be used, and joins the ranks of `bootstrap`: after
  // a rank was lost those that are left make a group of their own among them and go on in it.
  virtual Status Rejoin(std::shared_ptr<Collectives> bootstrap) = 0;
};

// All ranks of `bootstrap` call this together. Either all have joined or each has an error, which
// names a rank that failed (kUnavailable: no GPU, no way between two machines). Joining ends after
// kMostJoining, or options.deadline where that is shorter. `api` must outlive the group.
inline constexpr std::chrono::milliseconds kMostJoining = std::chrono::minutes(2);
Result<std::unique_ptr<NcclGroup>> JoinNccl(const NcclApi& api,
                                            std::shared_ptr<Collectives> bootstrap,
                                            NcclStream stream, const GroupOptions& options);

}  // namespace tidegate::cluster
