#include "fake_nccl.h"

#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "cluster/collective_stream.h"
#include "cluster/thread_group.h"

namespace tidegate::cluster {

// A communicator of the fake.
struct NcclComm {
  std::unique_ptr<Collectives> rank;
  std::shared_ptr<std::atomic<int>> missing;  // ranks that have not joined
  std::atomic<bool>* peer_lost = nullptr;
  std::unique_ptr<CollectiveStream> worker;
};

namespace {

DType TypeOf(NcclType type) {
  switch (type) {
    case kNcclFloat32:
      return DType::kF32;
    case kNcclFloat64:
      return DType::kF64;
    case kNcclBfloat16:
      return DType::kBf16;
    case kNcclInt64:
      return DType::kI64;
    case kNcclUint8:
      return DType::kU8;
  }
  return DType::kU8;
}

struct World {
  std::vector<std::unique_ptr<Collectives>> ranks;
  std::shared_ptr<std::atomic<int>> missing;
};
std::mutex worlds_mutex;
std::map<uint32_t, World> worlds;
uint32_t last_id = 0;

NcclResult GetVersion(int* version) {
  *version = kOldestNccl;
  return kNcclSuccess;
}

NcclResult GetUniqueId(NcclId* id) {
  std::lock_guard lock(worlds_mutex);
  ++last_id;
  std::memcpy(id->bytes, &last_id, sizeof last_id);
  return kNcclSuccess;
}

NcclResult InitRank(NcclComm** comm, int size, NcclId id, int rank, NcclConfig* config) {
  if (config->magic != 0xcafebeef || config->blocking != 0) return kNcclInvalidArgument;
  const FakeFaults& faults = FaultsOfThisThread();
  if (faults.join != kNcclSuccess) return faults.join;
  uint32_t number = 0;
  std::memcpy(&number, id.bytes, sizeof number);
  std::lock_guard lock(worlds_mutex);
  World& world = worlds[number];
  if (world.ranks.empty()) {
    world.ranks = std::move(*MakeThreadGroup(size, {}));
    world.missing = std::make_shared<std::atomic<int>>(size);
  }
  auto made = std::make_unique<NcclComm>();
  made->rank = std::move(world.ranks[rank]);
  made->missing = world.missing;
  made->peer_lost = faults.peer_lost;
  made->worker = std::make_unique<CollectiveStream>(*made->rank);
  --*world.missing;
  *comm = made.release();
  return kNcclInProgress;
}

NcclResult AsyncError(NcclComm* comm, NcclResult* error) {
  *error = *comm->missing > 0 ? kNcclInProgress : kNcclSuccess;
  if (comm->peer_lost != nullptr && *comm->peer_lost) *error = kNcclRemoteError;
  return kNcclSuccess;
}

NcclResult End(NcclComm* comm) {
  comm->worker.reset();
  delete comm;
  return kNcclSuccess;
}

NcclResult Finalize(NcclComm* comm) {
  return comm->worker->Drain().ok() ? kNcclInProgress : kNcclRemoteError;
}

NcclResult AbortComm(NcclComm* comm) {
  comm->rank->Abort("aborted");
  return End(comm);
}

const char* ErrorString(NcclResult result) {
  return result == kNcclRemoteError ? "remote process exited" : "unhandled cuda error";
}

// Queues it on the stream: done when the worker has run it. A failed one leaves the stream waiting,
// as a kernel of NCCL that waits for a lost peer does.
template <typename Work>
NcclResult Queue(NcclComm* comm, NcclStreamHandle stream, Work work) {
  auto* queue = static_cast<FakeStream*>(stream);
  ++queue->queued;
  (void)comm->worker->Submit([queue, work](Collectives& all) {
    const Status status = work(all);
    if (status.ok()) --queue->queued;
    return status;
  });
  return kNcclInProgress;
}

NcclResult AllReduce(const void* in, void* out, size_t count, NcclType type, int op, NcclComm* comm,
                     NcclStreamHandle stream) {
  if (in != out || op != kNcclSum) return kNcclInvalidArgument;
  return Queue(comm, stream,
               [=](Collectives& all) { return all.AllReduce("fake", out, count, TypeOf(type)); });
}

NcclResult ReduceScatter(const void* in, void* out, size_t count, NcclType type, int op,
                         NcclComm* comm, NcclStreamHandle stream) {
  if (op != kNcclSum) return kNcclInvalidArgument;
  return Queue(comm, stream, [=](Collectives& all) {
    return all.ReduceScatter("fake", in, out, count, TypeOf(type));
  });
}

NcclResult AllGather(const void* in, void* out, size_t count, NcclType type, NcclComm* comm,
                     NcclStreamHandle stream) {
  return Queue(comm, stream, [=](Collectives& all) {
    return all.AllGather("fake", in, out, count, TypeOf(type));
  });
}

NcclResult Broadcast(const void* in, void* out, size_t count, NcclType type, int root,
                     NcclComm* comm, NcclStreamHandle stream) {
  if (in != out) return kNcclInvalidArgument;
  return Queue(comm, stream, [=](Collectives& all) {
    return all.Broadcast("fake", out, count, TypeOf(type), root);
  });
}

// Sends and receives of one group, by peer: together they are an all-to-all.
struct Grouped {
  bool open = false;
  std::vector<const void*> sends;
  std::vector<void*> receives;
  size_t bytes = 0;
  NcclComm* comm = nullptr;
  NcclStreamHandle stream = nullptr;
};
thread_local Grouped grouped;

NcclResult GroupStart() {
  grouped = Grouped{};
  grouped.open = true;
  return kNcclSuccess;
}

NcclResult Send(const void* in, size_t count, NcclType type, int peer, NcclComm* comm,
                NcclStreamHandle stream) {
  if (!grouped.open || peer != static_cast<int>(grouped.sends.size())) return kNcclInvalidUsage;
  grouped.sends.push_back(in);
  grouped.bytes = count * SizeOf(TypeOf(type));
  grouped.comm = comm;
  grouped.stream = stream;
  return kNcclSuccess;
}

NcclResult Receive(void* out, size_t count, NcclType type, int peer, NcclComm*, NcclStreamHandle) {
  const bool fits = count * SizeOf(TypeOf(type)) == grouped.bytes;
  if (!fits || peer != static_cast<int>(grouped.receives.size())) return kNcclInvalidUsage;
  grouped.receives.push_back(out);
  return kNcclSuccess;
}

NcclResult GroupEnd() {
  if (grouped.sends.size() != grouped.receives.size()) return kNcclInvalidUsage;
  grouped.open = false;
  return Queue(grouped.comm, grouped.stream, [group = grouped](Collectives& all) -> Status {
    std::vector<uint8_t> in(group.bytes * group.sends.size());
    std::vector<uint8_t> out(in.size());
    for (size_t r = 0; r < group.sends.size(); ++r) {
      std::memcpy(in.data() + r * group.bytes, group.sends[r], group.bytes);
    }
    TG_RETURN_IF_ERROR(all.AllToAll("fake", in.data(), out.data(), group.bytes, DType::kU8));
    for (size_t r = 0; r < group.receives.size(); ++r) {
      std::memcpy(group.receives[r], out.data() + r * group.bytes, group.bytes);
    }
    return OkStatus();
  });
}

}  // namespace

const NcclApi& FakeNccl() {
  static const NcclApi api = {
      GetVersion, GetUniqueId,   InitRank,  Finalize,  End,  AbortComm, AsyncError, ErrorString,
      AllReduce,  ReduceScatter, AllGather, Broadcast, Send, Receive,   GroupStart, GroupEnd};
  return api;
}

FakeFaults& FaultsOfThisThread() {
  thread_local FakeFaults faults;
  return faults;
}

}  // namespace tidegate::cluster
