// The kernel table: every op as a function pointer, one table per (backend, activation type).
//
// A null slot means that this backend does not have the op: callers check and say so. Functions are
// thread-safe as long as each call has a context of its own; they do not check shapes (callers do,
// once, when a model is loaded) and they do not fail, except for std::bad_alloc (on a device
// DeviceError too).
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/convert.h"
#include "kernels/dropout.h"
#include "kernels/embedding.h"
#include "kernels/geglu.h"
#include "kernels/head_loss.h"
#include "kernels/linear.h"
#include "kernels/lora.h"
#include "kernels/optimizer.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "kernels/types.h"
#include "kernels/weight_gradients.h"

namespace tidegate::kernels {

// A backend's device beside the host. Every pointer that an op takes is then to the device's memory
// (ids, targets, segment starts, sums and the data of a WeightSource too), but for the arguments
// themselves. Ops are queued on the context's stream and run in the order of their calls; what they
// wrote can be read after Synchronize. Where the device fails these and the ops throw DeviceError;
// nothing on the device can be relied on after that.
struct Device {
  Memory memory;
  void* (*make_stream)();
  void (*release_stream)(void* stream);
  void (*to_device)(const Context&, void* to, const void* from, size_t bytes);
  void (*to_host)(const Context&, void* to, const void* from, size_t bytes);
  void (*copy)(const Context&, void* to, const void* from, size_t bytes);  // within the device
  void (*zero)(const Context&, void* at, size_t bytes);
  void (*synchronize)(const Context&);
  bool (*idle)(const Context&);  // whether all that was queued on the stream is done
  size_t (*free_bytes)();        // of the device's memory, now
  // An event stands for what was queued on a stream when it was recorded there; a stream that
  // follows it begins what is queued on it from then on when that is done. May be recorded anew
  // once whoever follows it is done.
  void* (*make_event)();
  void (*release_event)(void* event);
  void (*record)(const Context&, void* event);
  void (*follow)(const Context&, void* event);
};

class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct KernelTable {
  Backend backend;
  DType dtype;
  const char* isa;       // "reference", "avx2", "avx512", "avx512bf16", "amx-bf16", "sm_90", ...
  const Device* device;  // null where buffers are the host's

  std::unique_ptr<PreparedWeights> (*prepare_weights)(const WeightSource&);
  void (*linear_forward)(const Context&, const LinearForwardArgs&);
  void (*linear_backward)(const Context&, const LinearBackwardArgs&);
  void (*logits)(const Context&, const LogitsArgs&);
  void (*lora_forward)(const Context&, const LoraForwardArgs&);
  void (*lora_backward)(const Context&, const LoraBackwardArgs&);
  void (*rmsnorm_forward)(const Context&, const RmsNormForwardArgs&);
  void (*rmsnorm_backward)(const Context&, const RmsNormBackwardArgs&);
  void (*rope)(const Context&, const RopeArgs&);
  void (*attention_forward)(const Context&, const AttentionForwardArgs&);
  void (*attention_backward)(const Context&, const AttentionBackwardArgs&);
  void (*attention_decode)(const Context&, const AttentionDecodeArgs&);
  void (*swiglu_forward)(const Context&, const SwigluForwardArgs&);
  void (*swiglu_backward)(const Context&, const SwigluBackwardArgs&);
  void (*geglu_forward)(const Context&, const GegluForwardArgs&);
  void (*geglu_backward)(const Context&, const GegluBackwardArgs&);
  void (*head_loss)(const Context&, const HeadLossArgs&);
  void (*linear_gradient)(const Context&, const LinearGradientArgs&);
  void (*rmsnorm_gradient)(const Context&, const RmsNormGradientArgs&);
  void (*embedding_gradient)(const Context&, const EmbeddingGradientArgs&);
  void (*head_gradient)(const Context&, const HeadGradientArgs&);
  void (*embedding)(const Context&, const EmbeddingArgs&);
  void (*adamw)(const Context&, const AdamWArgs&);
  void (*sum_squares)(const Context&, const SumSquaresArgs&);
  void (*dropout_forward)(const Context&, const DropoutForwardArgs&);
  void (*dropout_backward)(const Context&, const DropoutBackwardArgs&);
  void (*convert)(const Context&, const ConvertArgs&);
};

// The table for a backend and activation type, or null where this build or this machine has none:
// (kRef, kF64) always; (kCpu, kF32) wherever oneDNN may generate code (not under PR_SET_MDWE);
// (kCpu, kBF16) where moreover the CPU has AVX512-bf16, as every one with AMX has; (kCuda, kF32)
// and (kCuda, kBF16) where this build has CUDA and the machine a GPU of compute capability 8.0 or
// newer and cuBLASLt (WhyNoCuda says what is missing). Chosen once, at run time. Weight formats
// each table takes: kRef all three; kF32 kF32 and kBF16; kBF16 kBF16; all of them the quantized
// ones.
const KernelTable* TableFor(Backend backend, DType dtype);

// Empty where there are CUDA tables, else what is missing, for a message.
const char* WhyNoCuda();

// Opens the libraries that a GPU is used through and starts none of them, for a process that will
// not be able to open any later. Their paths; none where this build has no CUDA or the machine no
// driver (WhyNoCuda says which, once it may start the driver).
std::vector<std::string> OpenCudaLibraries();

// Pins the worker threads to the CPUs this process may use, one each, when there are at least
// `threads` of them. Call once, before the first kernel and after the process walls.
void PinThreads(int threads);

}  // namespace tidegate::kernels
