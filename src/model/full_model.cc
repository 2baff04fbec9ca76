#include "model/full_model.h"

#include "model/engine.h"

namespace tidegate::model {
namespace {

const char* MissingGradientOp(const kernels::KernelTable& table) {
  const std::pair<bool, const char*> ops[] = {
      {table.linear_gradient != nullptr, "linear_gradient"},
      {table.rmsnorm_gradient != nullptr, "rmsnorm_gradient"},
      {table.embedding_gradient != nullptr, "embedding_gradient"},
      {table.head_gradient != nullptr, "head_gradient"},
      {table.convert != nullptr, "convert"},
      {table.adamw != nullptr, "adamw"},
      {table.sum_squares != nullptr, "sum_squares"},
  };
  for (const auto& [present, name] : ops) {
    if (!present) return name;
  }
  return nullptr;
}

class FlatModel final : public FullModel {
 public:
  FlatModel(const ModelConfig& config, const ComputeOptions& compute,
            const kernels::KernelTable& table, int64_t multiple)
      : config_(config), compute_(compute), table_(table), layout_(LayOutFlat(config, multiple)) {
    const size_t count = static_cast<size_t>(layout_.count);
    weights_ = AlignedBuffer(count * kernels::SizeOf(table.dtype), table.device);
    gradients_ =
        AlignedBuffer(count * kernels::SizeOf(kernels::GradType(table.dtype)), table.device);
    places_ = {&layout_, gradients_.data(), {}};
  }

  Status Open(const EngineOptions& options) {
    TG_ASSIGN_OR_RETURN(std::shared_ptr<const LoadedBase> base,
                        LoadedBase::Over(config_, compute_, layout_, weights_.data()));
    engine_ = std::make_unique<TransformerEngine>(std::move(base), LoraConfig{}, options, &places_);
    Zero(weights_.data(), weights_.size());
    Zero(gradients_.data(), gradients_.size());
    return OkStatus();
  }

  const ModelConfig& config() const override { return config_; }
  const FlatLayout& layout() const override { return layout_; }
  const kernels::KernelTable& table() const override { return table_; }
  const kernels::Context& context() const override { return engine_->residence().context(); }
  void* weights() override { return weights_.data(); }
  void* gradients() override { return gradients_.data(); }

  Result<LossSum> ForwardBackward(const tokens::PackedBatch& batch,
                                  const std::function<void(int64_t)>& on_final) override {
    places_.on_final = on_final;
    auto sum = engine_->ForwardBackward(batch, 0, 0);
    places_.on_final = {};
    return sum;
  }
  Result<LossSum> Evaluate(const tokens::PackedBatch& batch) override {
    return engine_->Evaluate(batch);
  }

  void ToHost(void* to, const void* from, size_t bytes) const override {
    engine_->residence().ToHost(to, from, bytes);
  }
  void FromHost(void* to, const void* from, size_t bytes) const override {
    const kernels::Device* device = table_.device;
    if (device == nullptr) {
      std::memcpy(to, from, bytes);
      return;
    }
    device->to_device(context(), to, from, bytes);
    Wait();
  }
  void Zero(void* at, size_t bytes) const override { engine_->residence().Zero(at, bytes); }
  void Wait() const override { engine_->residence().Wait(); }
  size_t MemoryBytes() const override {
    return weights_.size() + gradients_.size() + engine_->MemoryBytes();
  }

 private:
  ModelConfig config_;
  ComputeOptions compute_;
  const kernels::KernelTable& table_;
  FlatLayout layout_;
  AlignedBuffer weights_, gradients_;
  WeightGradients places_{};
  std::unique_ptr<TransformerEngine> engine_;
};

}  // namespace

Result<std::unique_ptr<FullModel>> FullModel::Create(const ModelConfig& config,
                                                     const ComputeOptions& compute,
                                                     const EngineOptions& options,
                                                     int64_t multiple) {
  TG_RETURN_IF_ERROR(CheckConfig(config, "the model"));
  TG_ASSIGN_OR_RETURN(const kernels::KernelTable* table, TableOf(compute));
  if (const char* op = MissingGradientOp(*table)) {
    return Unsupported("the {} kernels have no {}: choose another compute type", table->isa, op);
  }
  try {
    auto model = std::make_unique<FlatModel>(config, compute, *table, multiple);
    TG_RETURN_IF_ERROR(model->Open(options));
    return std::unique_ptr<FullModel>(std::move(model));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("{} parameters do not fit in memory: choose a smaller model or bf16",
                             config.num_parameters());
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
}

}  // namespace tidegate::model
