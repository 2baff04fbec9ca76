// A decoder all of whose weights are trained: flat buffers of weights and of gradients, and the
// passes that read the first and add to the second. Who trains it keeps the masters and moments,
// whole or in parts, and writes the weights anew between two steps. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/status.h"
#include "kernels/table.h"
#include "model/config.h"
#include "model/flat_layout.h"
#include "model/transformer.h"
#include "tokens/token_sequence.h"

namespace tidegate::model {

class FullModel {
 public:
  // Weights and gradients are zero. `multiple`: of the flat count (LayOutFlat). kUnsupported names
  // the kernel that is missing, kResourceExhausted when it does not fit in memory.
  static Result<std::unique_ptr<FullModel>> Create(const ModelConfig& config,
                                                   const ComputeOptions& compute,
                                                   const EngineOptions& options, int64_t multiple);
  virtual ~FullModel() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const FlatLayout& layout() const = 0;
  virtual const kernels::KernelTable& table() const = 0;
  // What the passes are queued on; the buffers are where its kernels read them.
  virtual const kernels::Context& context() const = 0;
  virtual void* weights() = 0;    // [layout().count] activation type
  virtual void* gradients() = 0;  // [layout().count] GradType
  // Adds the un-normalised gradient sums of the batch. As the pass goes from the head to the
  // embedding, `on_final` (may be empty) hears from which element on nothing more will be added.
  virtual Result<LossSum> ForwardBackward(const tokens::PackedBatch& batch,
                                          const std::function<void(int64_t begin)>& on_final) = 0;
  // Loss only.
  virtual Result<LossSum> Evaluate(const tokens::PackedBatch& batch) = 0;
  // Copies between the host and these buffers, done when they return.
  virtual void ToHost(void* to, const void* from, size_t bytes) const = 0;
  virtual void FromHost(void* to, const void* from, size_t bytes) const = 0;
  virtual void Zero(void* at, size_t bytes) const = 0;
  // Until what was queued has been done.
  virtual void Wait() const = 0;
  virtual size_t MemoryBytes() const = 0;
};

}  // namespace tidegate::model
