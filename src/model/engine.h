// The engine behind model/transformer.h, for the files that implement it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/activations.h"
#include "model/flat_layout.h"
#include "model/residence.h"
#include "model/rope_table.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace tidegate::model {

// Where the gradients of a base's own weights are added up, for training all of them.
struct WeightGradients {
  const FlatLayout* layout;
  std::byte* data;  // [layout->count] GradType, where the kernels write
  // Told as a backward pass goes up from the head: nothing more will be added to the elements from
  // `begin` on. On a device it is then queued. May be empty.
  std::function<void(int64_t begin)> on_final;
};

class TransformerEngine final : public Engine {
 public:
  // With `gradients`, which must outlive the engine, it trains the base's weights and `lora` has no
  // targets.
  TransformerEngine(std::shared_ptr<const LoadedBase> base, const LoraConfig& lora,
                    const EngineOptions& options, const WeightGradients* gradients = nullptr);

  void SetParameters(std::span<const float> parameters) override;
  Result<LossSum> ForwardBackward(const tokens::PackedBatch& batch, uint64_t seed,
                                  uint32_t micro_step) override;
  void TakeGradients(double factor, std::span<float> out) override;
  Result<LossSum> Evaluate(const tokens::PackedBatch& batch) override;
  Result<std::vector<double>> TokenLosses(const tokens::PackedBatch& batch) override;
  KvCache NewCache() const override;
  Result<std::span<float>> Append(KvCache& cache, std::span<const int32_t> ids) override;
  Result<std::span<float>> Step(std::span<KvCache* const> caches,
                                std::span<const int32_t> ids) override;
  size_t MemoryBytes() const override;
  const Residence& residence() const { return residence_; }

 private:
  // The rows that a layer works on.
  struct Rows {
    int64_t m = 0;
    const float* cos = nullptr;
    const float* sin = nullptr;
    const int32_t* segment_start = nullptr;  // null while decoding
    std::span<KvCache* const> caches = {};   // decoding: the sequences, as many rows of each
    bool dropout = false;
    uint64_t seed = 0;
    uint32_t micro_step = 0;
  };
  // Which gradients of the lowest adapted layer lead to an adapter; all of them in the layers
  // above.
  struct Needs {
    bool act = true, mid = true, attn = true, input = true;
  };
  // The places of one module's numbers.
  struct ModuleSlot {
    const void* a = nullptr;  // compute copies
    const void* b = nullptr;
    void* da = nullptr;  // accumulators, GradType
    void* db_t = nullptr;
  };

  Status CheckBatch(const tokens::PackedBatch& batch) const;
  Status CheckIds(std::span<const int32_t> ids) const;
  Error OutOfMemory(int64_t rows) const;
  ModuleSlot Slot(int layer, Module module) const;
  kernels::DropoutKey DropoutKeyOf(int layer, Module module, const Rows& rows) const;
  Needs NeedsOf(int layer) const;

  // Runs `batch` through all layers and the head; the losses are in activations_->loss.
  void Forward(const tokens::PackedBatch& batch, Purpose purpose, Rows* rows);
  Result<int64_t> Losses(const tokens::PackedBatch& batch);
  void ForwardLayer(int layer, const Rows& rows, const LayerBuffers& buffers, const void* x,
                    void* y);
  void ForwardLinear(int layer, Module module, const Rows& rows, const void* x,
                     const void* residual, const LayerBuffers& buffers, void* y);
  void Norm(int64_t m, const void* x, const void* w, void* y, void* rstd);
  void ForwardQueriesAndKeys(int layer, const Rows& rows, const LayerBuffers& buffers);
  void BackwardQueriesAndKeys(int layer, const Rows& rows);
  void ForwardHead(const tokens::PackedBatch& batch, bool with_gradient);
  // Where cosines and sines are for these positions.
  void FillRope(std::span<const int32_t> positions, Rows* rows);
  // Runs of rows with a target at once: to `packed` from rows of the batch, or back.
  void MoveHeadRows(void* packed, void* rows, bool back);
  // The losses of the last pass, on the host.
  std::span<const double> FetchLosses();
  LossSum SumLosses();

  void Backward(const Rows& rows);
  // With gradient checkpointing: makes the layer's activations anew from its input.
  void Recompute(int layer, const Rows& rows);
  void BackwardHead(int64_t t);
  bool Trains() const { return weight_gradients_ != nullptr || !tensors_.empty(); }
  // The place of a weight's gradient, from its offset in the layout.
  void* GradientAt(int64_t offset) const;
  // Gradients of weights, where these are trained; nothing else otherwise.
  void AddNormGradient(int64_t m, int64_t n, const void* x, const void* rstd, const void* dy,
                       int64_t offset);
  void AddLinearGradient(int layer, Module module, const Rows& rows, const void* x, const void* dy);
  void AddHeadGradient();
  void TellFinal(int64_t begin) const;
  // False when no gradient is needed below.
  bool BackwardMlp(int layer, const Rows& rows);
  bool BackwardAttention(int layer, const Rows& rows);
  void BackwardLinear(int layer, Module module, const Rows& rows, const void* x, const void* dy,
                      bool accumulate, void* dx);

  void AttendToCaches(int layer, const Rows& rows, const LayerBuffers& buffers);
  // All layers and the final norm of the last `head_rows` rows.
  void DecodeRows(std::span<const int32_t> ids, std::span<const int32_t> positions, Rows* rows,
                  int64_t head_rows);
  std::span<float> HeadLogits(int64_t m);

  std::shared_ptr<const LoadedBase> base_;
  const ModelConfig& config_;
  const kernels::KernelTable& table_;
  LoraConfig lora_;
  EngineOptions options_;
  size_t element_, grad_element_;
  Residence residence_;
  const kernels::Context& context_;
  RopeTable rope_;
  std::vector<AdapterTensor> tensors_;
  AdaptedModules modules_;
  int64_t parameter_count_ = 0;
  ActivationArena arena_;
  const Activations* activations_ = nullptr;
  const WeightGradients* weight_gradients_;
  // Of the last batch, where the kernels read them.
  const int32_t* ids_ = nullptr;
  const int32_t* targets_ = nullptr;

  AlignedBuffer copies_;     // activation type, layout order; B times the LoRA scale
  AlignedBuffer gradients_;  // GradType, layout order; B's transposed and of the scaled B

  std::vector<int32_t> head_rows_, head_targets_;

  std::vector<double> losses_;            // of the last pass
  std::vector<float> rope_rows_;          // of the last batch, on their way to a device
  AlignedBuffer parameters_;              // as they came, on a device
  AlignedBuffer logits_, device_logits_;  // of the last step, float
};

}  // namespace tidegate::model
