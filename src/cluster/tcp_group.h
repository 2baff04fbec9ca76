// Ranks that meet over TCP and prove each other by a secret (rendezvous.h). All data goes through
// rank 0, so this is for small things: to hand out NCCL's id, to agree on a step, to test. A call
// that moves more than kMaxFrameBytes between rank 0 and another rank is kResourceExhausted.
#pragma once

#include <memory>

#include "cluster/collectives.h"
#include "cluster/rendezvous.h"

namespace tidegate::cluster {

// Rank 0. `listener` is from TcpListen.
Result<std::unique_ptr<Collectives>> HostTcpGroup(const Fd& listener, int size,
                                                  const crypto::Secret<32>& secret,
                                                  const GroupOptions& options);

// Rank 1 to size-1.
Result<std::unique_ptr<Collectives>> JoinTcpGroup(const std::string& address, int rank, int size,
                                                  const crypto::Secret<32>& secret,
                                                  const GroupOptions& options);

}  // namespace tidegate::cluster
