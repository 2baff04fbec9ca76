#include "cluster/nccl_api.h"

#include <dlfcn.h>

namespace tidegate::cluster {
namespace {

constexpr char kName[] = "libnccl.so.2";

template <typename F>
bool Find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

Result<NcclApi> LoadNcclFrom(const std::string& name) {
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return Unsupported("NCCL is not there: {}; install libnccl2, or run over MPI",
                       why != nullptr ? why : name);
  }
  NcclApi api;
  const bool whole =
      Find(library, "ncclGetVersion", api.get_version) &&
      Find(library, "ncclGetUniqueId", api.get_unique_id) &&
      Find(library, "ncclCommInitRankConfig", api.init_rank) &&
      Find(library, "ncclCommFinalize", api.finalize) &&
      Find(library, "ncclCommDestroy", api.destroy) && Find(library, "ncclCommAbort", api.abort) &&
      Find(library, "ncclCommGetAsyncError", api.async_error) &&
      Find(library, "ncclGetErrorString", api.error_string) &&
      Find(library, "ncclAllReduce", api.all_reduce) &&
      Find(library, "ncclReduceScatter", api.reduce_scatter) &&
      Find(library, "ncclAllGather", api.all_gather) &&
      Find(library, "ncclBroadcast", api.broadcast) && Find(library, "ncclSend", api.send) &&
      Find(library, "ncclRecv", api.receive) && Find(library, "ncclGroupStart", api.group_start) &&
      Find(library, "ncclGroupEnd", api.group_end);
  int version = 0;
  if (!whole || api.get_version(&version) != kNcclSuccess || version < kOldestNccl) {
    dlclose(library);
    return Unsupported("{} is no NCCL of 2.14 or later (it says {}); install libnccl2", name,
                       version);
  }
  return api;
}

Result<const NcclApi*> LoadNccl() {
  static const Result<NcclApi> api = [] {
    Result<NcclApi> found = LoadNcclFrom(kName);
#ifdef TIDEGATE_CUDA_LIBRARY_DIR
    if (!found) {
      if (auto other = LoadNcclFrom(std::string(TIDEGATE_CUDA_LIBRARY_DIR "/") + kName)) {
        return other;
      }
    }
#endif
    return found;
  }();
  if (!api) return Unexpected(api.error());
  return &*api;
}

}  // namespace tidegate::cluster
