// CUDA's runtime for emulated kernels, linked in its place. Work on a stream runs when the host
// waits for it and not before, so that a missing wait shows; what follows an event runs the stream
// that it was recorded on up to there. Several threads may use it, one at a time. device memory is
// poisoned whenever the host runs (AddressSanitizer) and begins as NaN.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "emulator.h"
#include "grid.h"
#include "kernels/internal/simt.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size) (static_cast<void>(at), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(at, size) (static_cast<void>(at), static_cast<void>(size))
#endif

struct CUstream_st {
  std::deque<std::function<void()>> work;
};
// As it was recorded last.
struct CUevent_st {
  CUstream_st* stream = nullptr;
  std::shared_ptr<bool> done;
};

namespace tidegate::kernels::simt {
namespace {

std::map<char*, size_t>& Allocations() {
  static std::map<char*, size_t> allocations;
  return allocations;
}

bool OnDevice(const void* p, size_t bytes) {
  char* at = const_cast<char*>(static_cast<const char*>(p));
  const auto after = Allocations().upper_bound(at);
  if (after == Allocations().begin()) return false;
  const auto& [begin, size] = *std::prev(after);
  return at >= begin && at + bytes <= begin + size;
}

std::recursive_mutex& Mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}
using Lock = std::lock_guard<std::recursive_mutex>;

// Device memory may be touched while one of these lives.
class DeviceRuns {
 public:
  DeviceRuns() {
    if (++depth_ > 1) return;
    for (const auto& [at, size] : Allocations()) ASAN_UNPOISON_MEMORY_REGION(at, size);
  }
  ~DeviceRuns() {
    if (--depth_ > 0) return;
    for (const auto& [at, size] : Allocations()) ASAN_POISON_MEMORY_REGION(at, size);
  }

 private:
  static inline int depth_ = 0;
};

CUstream_st& Queue(cudaStream_t stream) {
  static CUstream_st standard;
  return stream ? *stream : standard;
}

// All that is queued, or what is until `done`.
void Run(CUstream_st& stream, const bool* done = nullptr) {
  const DeviceRuns runs;
  while (!stream.work.empty() && (done == nullptr || !*done)) {
    const std::function<void()> work = std::move(stream.work.front());
    stream.work.pop_front();
    try {
      work();
    } catch (...) {
      stream.work.clear();
      throw;
    }
  }
}

std::vector<CUstream_st*>& Streams() {
  static std::vector<CUstream_st*> streams;
  return streams;
}

void RunEverything() {
  Run(Queue(nullptr));
  for (CUstream_st* stream : Streams()) Run(*stream);
}

}  // namespace

void EnqueueWork(cudaStream_t stream, std::function<void()> work) {
  const Lock lock(Mutex());
  Queue(stream).work.push_back(std::move(work));
}

namespace emulated {

cudaError_t Enqueue(dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                    std::function<void()> thread) {
  const bool fits = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu &&
                    grid.y <= 65535 && grid.z <= 65535 && block.x > 0 && block.x <= 1024 &&
                    block.x % 32 == 0 && block.y == 1 && block.z == 1 && shared <= 227 * 1024;
  if (!fits) return cudaErrorInvalidConfiguration;
  const Lock lock(Mutex());
  Queue(stream).work.push_back(
      [held = Grid{grid, block, shared, std::move(thread)}] { RunGrid(held); });
  return cudaSuccess;
}

}  // namespace emulated
}  // namespace tidegate::kernels::simt

using namespace tidegate::kernels::simt;  // NOLINT: the functions below are CUDA's, in no namespace

extern "C" {

// What a driver does when it is first used: a program of the tests that has something to put here
// defines it. 0, or an error.
__attribute__((weak)) int TidegateEmulatedDriverStart();

cudaError_t cudaGetDeviceCount(int* count) {
  static const int failed = TidegateEmulatedDriverStart ? TidegateEmulatedDriverStart() : 0;
  *count = failed == 0 ? 1 : 0;
  return static_cast<cudaError_t>(failed);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9
           : attribute == cudaDevAttrMultiProcessorCount  ? 2
                                                          : 0;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock(Mutex());
  *total = *free = size_t{4} << 30;
  for (const auto& [at, size] : Allocations()) *free -= std::min(*free, size);
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** out, size_t bytes) {
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*out == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*out, 0xff, bytes);
  const Lock lock(Mutex());
  Allocations()[static_cast<char*>(*out)] = bytes;
  ASAN_POISON_MEMORY_REGION(*out, (bytes + 255) / 256 * 256);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const Lock lock(Mutex());
  RunEverything();
  if (memory == nullptr) return cudaSuccess;
  const auto found = Allocations().find(static_cast<char*>(memory));
  if (found == Allocations().end()) return cudaErrorInvalidValue;
  ASAN_UNPOISON_MEMORY_REGION(memory, (found->second + 255) / 256 * 256);
  Allocations().erase(found);
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  const Lock lock(Mutex());
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (OnDevice(to, bytes) != to_device || OnDevice(from, bytes) != from_device) {
    return cudaErrorInvalidValue;
  }
  Queue(stream).work.push_back([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  const Lock lock(Mutex());
  if (!OnDevice(at, bytes)) return cudaErrorInvalidValue;
  Queue(stream).work.push_back([=] { std::memset(at, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Lock lock(Mutex());
  *stream = new CUstream_st;
  Streams().push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(Mutex());
  Run(*stream);
  std::erase(Streams(), stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(Mutex());
  Run(Queue(stream));
  return cudaSuccess;
}
// Who asks again sees it done: the work is run between the two.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock(Mutex());
  if (Queue(stream).work.empty()) return cudaSuccess;
  Run(Queue(stream));
  return cudaErrorNotReady;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(Mutex());
  *event = {&Queue(stream), std::make_shared<bool>(false)};
  Queue(stream).work.push_back([done = event->done] { *done = true; });
  return cudaSuccess;
}
// One that was never recorded is no wait, as CUDA has it.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Lock lock(Mutex());
  if (event->done == nullptr) return cudaSuccess;
  Queue(stream).work.push_back([from = event->stream, done = event->done] {
    if (!*done) Run(*from, done.get());
  });
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "invalid configuration" : "emulated error";
}

}  // extern "C"
