// Linear layers with frozen weights: y = x Wᵀ (+ bias) (+ residual) and its input gradient dx = dy
// W.
#pragma once

#include "kernels/lora.h"
#include "kernels/types.h"

namespace tidegate::kernels {

// How a weight matrix lies in memory. Row-major [n, k], as safetensors has it; the packed ones as
// kernels/quantize.h has it.
enum class WeightFormat : uint8_t {
  kF32 = 0,
  kBF16 = 1,
  kF64 = 2,
  kInt8 = 3,       // 8 bits, a scale a row
  kNf4 = 4,        // 4-bit NormalFloat, a scale for 64 values
  kNf4Double = 5,  // the same, its scales in 8 bits
};
constexpr bool IsQuantized(WeightFormat format) { return format >= WeightFormat::kInt8; }

// A weight matrix made ready by a backend, once. Opaque: only the backend that made it reads it.
// It may refer to the source's memory, which must outlive it. Immutable, so thread-safe.
class PreparedWeights {
 public:
  virtual ~PreparedWeights() = default;
  int64_t n() const { return n_; }  // output features
  int64_t k() const { return k_; }  // input features

 protected:
  PreparedWeights(int64_t n, int64_t k) : n_(n), k_(k) {}

 private:
  int64_t n_, k_;
};

// A table takes weights in its activation type and quantized ones; that of floats takes bf16 too,
// in half the memory and to the same bits as the floats that they stand for.
struct WeightSource {
  WeightFormat format;
  int64_t n, k;
  const void* data;  // [n, k], or QuantizedBytes(format, n, k) made by Quantize(); borrowed
};

// y[m,n] = x[m,k] Wᵀ + bias[n] + residual[m,n], summed in the wide type and rounded once. residual
// may be null or alias y; y may not alias x. With `lora`, what lora_forward does follows (m, n, k,
// x and y the same); whether y is rounded between the two is the backend's.
struct LinearForwardArgs {
  const PreparedWeights* w;
  int64_t m;
  const void* x;
  const void* residual;
  void* y;
  const void* bias = nullptr;             // activation type; null: none
  const LoraForwardArgs* lora = nullptr;  // its low-rank branch into the same y; null: none
};

// dx[m,k] = dy[m,n] W, or += when accumulate.
struct LinearBackwardArgs {
  const PreparedWeights* w;
  int64_t m;
  const void* dy;
  bool accumulate;
  void* dx;
  // Its low-rank branch with the same m, n, k, dy and dx, accumulate_dx set; null: none.
  const LoraBackwardArgs* lora = nullptr;
};

// logits[m,n] = h[m,k] Wᵀ in GradType, for generation: few rows, whole vocabulary.
struct LogitsArgs {
  const PreparedWeights* w;
  int64_t m;
  const void* h;
  void* logits;
};

}  // namespace tidegate::kernels
