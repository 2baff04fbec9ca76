// The part of NCCL that is used, as a table of functions: no program links the library, it is
// loaded when it is asked for. The layouts are those of its C interface since 2.14, which later
// versions of libnccl.so.2 keep.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/status.h"

namespace tidegate::cluster {

struct NcclId {
  char bytes[128];
};
struct NcclComm;  // opaque
using NcclStreamHandle = void*;

enum NcclResult : int {
  kNcclSuccess = 0,
  kNcclUnhandledCudaError = 1,
  kNcclSystemError = 2,
  kNcclInternalError = 3,
  kNcclInvalidArgument = 4,
  kNcclInvalidUsage = 5,
  kNcclRemoteError = 6,
  kNcclInProgress = 7
};
enum NcclType : int {
  kNcclUint8 = 1,
  kNcclInt64 = 4,
  kNcclFloat32 = 7,
  kNcclFloat64 = 8,
  kNcclBfloat16 = 9
};
inline constexpr int kNcclSum = 0;

// ncclConfig_t of 2.14: the library fills in what later versions added.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;
};
inline constexpr int kOldestNccl = 21400;

struct NcclApi {
  NcclResult (*get_version)(int* version) = nullptr;
  NcclResult (*get_unique_id)(NcclId* id) = nullptr;
  NcclResult (*init_rank)(NcclComm** comm, int size, NcclId id, int rank,
                          NcclConfig* config) = nullptr;
  NcclResult (*finalize)(NcclComm* comm) = nullptr;
  NcclResult (*destroy)(NcclComm* comm) = nullptr;
  NcclResult (*abort)(NcclComm* comm) = nullptr;
  NcclResult (*async_error)(NcclComm* comm, NcclResult* error) = nullptr;
  const char* (*error_string)(NcclResult result) = nullptr;
  NcclResult (*all_reduce)(const void* in, void* out, size_t count, NcclType type, int op,
                           NcclComm* comm, NcclStreamHandle stream) = nullptr;
  NcclResult (*reduce_scatter)(const void* in, void* out, size_t count, NcclType type, int op,
                               NcclComm* comm, NcclStreamHandle stream) = nullptr;
  NcclResult (*all_gather)(const void* in, void* out, size_t count, NcclType type, NcclComm* comm,
                           NcclStreamHandle stream) = nullptr;
  NcclResult (*broadcast)(const void* in, void* out, size_t count, NcclType type, int root,
                          NcclComm* comm, NcclStreamHandle stream) = nullptr;
  NcclResult (*send)(const void* in, size_t count, NcclType type, int peer, NcclComm* comm,
                     NcclStreamHandle stream) = nullptr;
  NcclResult (*receive)(void* out, size_t count, NcclType type, int peer, NcclComm* comm,
                        NcclStreamHandle stream) = nullptr;
  NcclResult (*group_start)() = nullptr;
  NcclResult (*group_end)() = nullptr;
};

// The machine's libnccl.so.2, as the loader finds it, else where it lay when this was built; kept
// until the process ends. kUnsupported, naming what is missing and what to install, where there is
// none, it is older than kOldestNccl, or `name` is no NCCL. Needs no GPU. Thread-safe.
Result<const NcclApi*> LoadNccl();
Result<NcclApi> LoadNcclFrom(const std::string& name);

}  // namespace tidegate::cluster
