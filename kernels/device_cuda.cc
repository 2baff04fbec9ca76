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
