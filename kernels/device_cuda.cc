#include <cuda_runtime_api.h>

#include <new>
#include <string>

#include "kernels/internal/cuda_device.h"

namespace tidegate::kernels {
namespace {

void* Allocate(size_t bytes) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, bytes == 0 ? 1 : bytes) != cudaSuccess) {
    cudaGetLastError();  // or the next launch would report it
    throw std::bad_alloc();
  }
  return memory;
}

void Release(void* memory) { cudaFree(memory); }

void* MakeStream() {
  cudaStream_t stream = nullptr;
  CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  return stream;
}

void ReleaseStream(void* stream) { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }

template <cudaMemcpyKind kKind>
void Copy(const Context& context, void* to, const void* from, size_t bytes) {
  CheckCuda(cudaMemcpyAsync(to, from, bytes, kKind, StreamOf(context)), "copying memory");
}

void Zero(const Context& context, void* at, size_t bytes) {
  CheckCuda(cudaMemsetAsync(at, 0, bytes, StreamOf(context)), "clearing memory");
}

void Synchronize(const Context& context) {
  CheckCuda(cudaStreamSynchronize(StreamOf(context)), "waiting for the device");
}

bool Idle(const Context& context) {
  const cudaError_t error = cudaStreamQuery(StreamOf(context));
  if (error == cudaErrorNotReady) return false;
  CheckCuda(error, "asking a stream");
  return true;
}

void* MakeEvent() {
  cudaEvent_t event = nullptr;
  CheckCuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  return event;
}

void ReleaseEvent(void* event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

void Record(const Context& context, void* event) {
  CheckCuda(cudaEventRecord(static_cast<cudaEvent_t>(event), StreamOf(context)),
            "recording an event");
}

void Follow(const Context& context, void* event) {
  CheckCuda(cudaStreamWaitEvent(StreamOf(context), static_cast<cudaEvent_t>(event), 0),
            "following an event");
}

size_t FreeBytes() {
  size_t free = 0, total = 0;
  CheckCuda(cudaMemGetInfo(&free, &total), "asking for its memory");
  return free;
}

}  // namespace

void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  if (error == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw DeviceError(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

const Device& CudaDevice() {
  static constexpr Device device = {
      .memory = {Allocate, Release},
      .make_stream = MakeStream,
      .release_stream = ReleaseStream,
      .to_device = Copy<cudaMemcpyHostToDevice>,
      .to_host = Copy<cudaMemcpyDeviceToHost>,
      .copy = Copy<cudaMemcpyDeviceToDevice>,
      .zero = Zero,
      .synchronize = Synchronize,
      .idle = Idle,
      .free_bytes = FreeBytes,
      .make_event = MakeEvent,
      .release_event = ReleaseEvent,
      .record = Record,
      .follow = Follow,
  };
  return device;
}

int MultiprocessorCount() {
  static const int count = [] {
    int value = 1;
    CheckCuda(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0),
              "asking for the number of multiprocessors");
    return value;
  }();
  return count;
}

}  // namespace tidegate::kernels
