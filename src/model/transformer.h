// The decoder: a frozen base with a LoRA adapter, forward, backward and token by token.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/table.h"
#include "model/adapter.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "tokens/token_sequence.h"

namespace tidegate::model {

// How a base's linear layers are held (kernels/quantize.h); embedding, head and norms stay as they
// are. Named as transformers' BitsAndBytesConfig names them.
enum class Quantization : uint8_t {
  kNone = 0,
  kInt8 = 1,       // load_in_8bit
  kNf4 = 2,        // load_in_4bit
  kNf4Double = 3,  // load_in_4bit with bnb_4bit_use_double_quant
};
std::string_view QuantizationName(Quantization quantization);  // "none", "int8", "nf4", …

// How a model computes. kRef/kF64 is for tests.
struct ComputeOptions {
  kernels::Backend backend = kernels::Backend::kCpu;
  kernels::DType dtype = kernels::DType::kF32;
  int threads = 1;
  Quantization quantization = Quantization::kNone;
};

// "cpu", "cuda": a GPU that is not there is refused with what is missing.
Result<kernels::Backend> ParseDevice(std::string_view text);

// "auto" (bf16 where the CPU has it, else f32; on a GPU bf16), "bf16", "f32": bf16 on a CPU without
// it is refused by name.
Result<kernels::DType> ParseDType(std::string_view text,
                                  kernels::Backend backend = kernels::Backend::kCpu);

// A frozen base in memory: one copy of the weights in the activation type. Immutable, thread-safe.
class Base {
 public:
  // From an HF folder (config.json, *.safetensors). Every tensor is checked for name, shape and
  // dtype; NaN or Inf in a weight is refused naming the tensor.
  static Result<std::shared_ptr<const Base>> Load(const std::filesystem::path& dir,
                                                  const ComputeOptions& options);
  virtual ~Base() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const ComputeOptions& compute() const = 0;
};

struct LossSum {
  double loss = 0;      // sum of the cross-entropy over targets, natural log
  int64_t targets = 0;  // how many
};

struct EngineOptions {
  // Keep each layer's input alone and compute the layer once more on the way back: the same bits in
  // about a third more time and, over many layers, a tenth of the activations.
  bool gradient_checkpointing = false;
};

// Sequences that Engine::Step takes at once.
inline constexpr size_t kMaxStepSequences = 32;

// One training engine: activations, scratch and the compute copies of one adapter. Not thread-safe.
class Engine {
 public:
  static Result<std::unique_ptr<Engine>> Create(std::shared_ptr<const Base> base,
                                                const LoraConfig& lora,
                                                const EngineOptions& options = {});
  virtual ~Engine() = default;

  // Refreshes the compute copies from the masters. Call after every change of parameters.
  virtual void SetParameters(std::span<const float> parameters) = 0;

  // Loss and un-normalised gradient sums of a packed batch, added to the window's accumulators.
  // Dropout (when lora.dropout > 0) is keyed by (seed, micro_step).
  virtual Result<LossSum> ForwardBackward(const tokens::PackedBatch& batch, uint64_t seed,
                                          uint32_t micro_step) = 0;
  // Ends the window: gradients · factor in layout order into `out`; the accumulators are zeroed.
  virtual void TakeGradients(double factor, std::span<float> out) = 0;

  // Loss only, no dropout.
  virtual Result<LossSum> Evaluate(const tokens::PackedBatch& batch) = 0;
  // Natural-log loss of every target in batch order, for golden traces and data checks.
  virtual Result<std::vector<double>> TokenLosses(const tokens::PackedBatch& batch) = 0;

  // Generation. Feeds tokens to a sequence; the logits [vocab] after the last of them, which the
  // caller may change and which stand until the next call. kFailedPrecondition when the sequence
  // would pass max_positions; the cache is then as it was, as after any error.
  virtual KvCache NewCache() const = 0;
  virtual Result<std::span<float>> Append(KvCache& cache, std::span<const int32_t> ids) = 0;
  // Feeds a token to each of several sequences (no cache twice), which share one pass over the
  // weights: logits [sequences, vocab]. Each row has the bits that Append of its token alone gives.
  virtual Result<std::span<float>> Step(std::span<KvCache* const> caches,
                                        std::span<const int32_t> ids) = 0;

  // Bytes this engine holds (activations, scratch, adapter copies), base and caches not included.
  // They grow to the largest batch seen.
  virtual size_t MemoryBytes() const { return 0; }
};

}  // namespace tidegate::model
