#include "model/engine.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace tidegate::model {
namespace {

using kernels::DType;

// Rows of one batch: bounds the arena's arithmetic, memory bounds it sooner.
constexpr size_t kMaxBatchRows = 1 << 24;

// The first op that the table lacks, or null.
const char* MissingOp(const kernels::KernelTable& t, bool dropout) {
  const std::pair<bool, const char*> ops[] = {
      {t.linear_forward != nullptr, "linear_forward"},
      {t.linear_backward != nullptr, "linear_backward"},
      {t.logits != nullptr, "logits"},
      {t.lora_forward != nullptr, "lora_forward"},
      {t.lora_backward != nullptr, "lora_backward"},
      {t.rmsnorm_forward != nullptr, "rmsnorm_forward"},
      {t.rmsnorm_backward != nullptr, "rmsnorm_backward"},
      {t.rope != nullptr, "rope"},
      {t.attention_forward != nullptr, "attention_forward"},
      {t.attention_backward != nullptr, "attention_backward"},
      {t.attention_decode != nullptr, "attention_decode"},
      {t.swiglu_forward != nullptr, "swiglu_forward"},
      {t.swiglu_backward != nullptr, "swiglu_backward"},
      {t.head_loss != nullptr, "head_loss"},
      {t.embedding != nullptr, "embedding"},
      {t.convert != nullptr, "convert"},
      {!dropout || t.dropout_forward != nullptr, "dropout_forward"},
      {!dropout || t.dropout_backward != nullptr, "dropout_backward"},
  };
  for (const auto& [present, name] : ops) {
    if (!present) return name;
  }
  return nullptr;
}

}  // namespace

TransformerEngine::TransformerEngine(std::shared_ptr<const LoadedBase> base, const LoraConfig& lora,
                                     const EngineOptions& options, const WeightGradients* gradients)
    : base_(std::move(base)),
      config_(base_->config()),
      table_(base_->table()),
      lora_(lora),
      options_(options),
      element_(kernels::SizeOf(table_.dtype)),
      grad_element_(kernels::SizeOf(kernels::GradType(table_.dtype))),
      residence_(table_, base_->compute().threads),
      context_(residence_.context()),
      rope_(config_),
      tensors_(AdapterLayout(config_, lora_)),
      modules_(config_, tensors_),
      arena_(config_, modules_, lora_.dropout > 0, gradients != nullptr, table_.dtype,
             table_.device),
      weight_gradients_(gradients) {
  if (!tensors_.empty()) parameter_count_ = tensors_.back().offset + tensors_.back().count();
  const size_t count = static_cast<size_t>(parameter_count_);
  copies_ = AlignedBuffer(count * element_, table_.device);
  gradients_ = AlignedBuffer(count * grad_element_, table_.device);
  if (table_.device != nullptr) parameters_ = AlignedBuffer(count * sizeof(float), table_.device);
  residence_.Zero(copies_.data(), copies_.size());
  residence_.Zero(gradients_.data(), gradients_.size());
}

Result<std::unique_ptr<Engine>> Engine::Create(std::shared_ptr<const Base> base,
                                               const LoraConfig& lora,
                                               const EngineOptions& options) {
  auto loaded = std::dynamic_pointer_cast<const LoadedBase>(std::move(base));
  if (loaded == nullptr) return InvalidArgument("the base was not made by Base::Load");
  TG_RETURN_IF_ERROR(CheckLoraFits(lora, loaded->config()));
  if (const char* op = MissingOp(loaded->table(), lora.dropout > 0)) {
    return Unsupported("the {} kernels have no {}: choose another compute type",
                       loaded->table().isa, op);
  }
  try {
    return std::unique_ptr<Engine>(
        std::make_unique<TransformerEngine>(std::move(loaded), lora, options));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("the adapter (rank {}) does not fit in memory: choose a lower rank",
                             lora.r);
  }
}

void TransformerEngine::SetParameters(std::span<const float> parameters) {
  assert(static_cast<int64_t>(parameters.size()) == parameter_count_);
  std::vector<double> wide;
  const float* from = residence_.In(parameters.data(), parameters.size(), parameters_.data());
  for (const AdapterTensor& t : tensors_) {
    const void* in = from + t.offset;
    if (table_.dtype == DType::kF64) {
      wide.assign(parameters.data() + t.offset, parameters.data() + t.offset + t.count());
      in = wide.data();
    }
    table_.convert(context_, {t.count(), in, t.is_b ? t.scale : 1.0,
                              copies_.data() + static_cast<size_t>(t.offset) * element_});
  }
  residence_.Wait();
}

namespace {

// A's accumulator is [r,in] as the parameter; B's is [r,out], the parameter's transpose.
template <typename T>
void TakeTensor(const AdapterTensor& t, const T* in, double factor, float* out) {
  if (!t.is_b) {
    for (int64_t i = 0; i < t.count(); ++i) out[i] = static_cast<float>(in[i] * factor);
    return;
  }
  for (int64_t row = 0; row < t.rows; ++row) {
    for (int64_t col = 0; col < t.cols; ++col) {
      out[row * t.cols + col] = static_cast<float>(in[col * t.rows + row] * factor);
    }
  }
}

}  // namespace

void TransformerEngine::TakeGradients(double factor, std::span<float> out) {
  assert(static_cast<int64_t>(out.size()) == parameter_count_);
  const std::byte* gradients = gradients_.data();
  AlignedBuffer fetched;
  if (table_.device != nullptr) {
    fetched = AlignedBuffer(gradients_.size());
    residence_.ToHost(fetched.data(), gradients, fetched.size());
    gradients = fetched.data();
  }
  for (const AdapterTensor& t : tensors_) {
    const std::byte* in = gradients + static_cast<size_t>(t.offset) * grad_element_;
    const double scaled = t.is_b ? factor * t.scale : factor;
    if (table_.dtype == DType::kF64) {
      TakeTensor(t, reinterpret_cast<const double*>(in), scaled, out.data() + t.offset);
    } else {
      TakeTensor(t, reinterpret_cast<const float*>(in), scaled, out.data() + t.offset);
    }
  }
  residence_.Zero(gradients_.data(), gradients_.size());
}

TransformerEngine::ModuleSlot TransformerEngine::Slot(int layer, Module module) const {
  const size_t index = modules_.index(layer, module);
  const size_t a = static_cast<size_t>(tensors_[index].offset);
  const size_t b = static_cast<size_t>(tensors_[index + 1].offset);
  return {copies_.data() + a * element_, copies_.data() + b * element_,
          gradients_.data() + a * grad_element_, gradients_.data() + b * grad_element_};
}

kernels::DropoutKey TransformerEngine::DropoutKeyOf(int layer, Module module,
                                                    const Rows& rows) const {
  return {rows.seed, rows.micro_step,
          static_cast<uint32_t>(layer * kModulesPerLayer + static_cast<int>(module))};
}

Status TransformerEngine::CheckIds(std::span<const int32_t> ids) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= config_.vocab_size) {
      return InvalidArgument(
          "token {} has id {}, the model has ids 0 to {}: use the tokenizer that came with it", i,
          ids[i], config_.vocab_size - 1);
    }
  }
  return OkStatus();
}

Status TransformerEngine::CheckBatch(const tokens::PackedBatch& batch) const {
  const size_t t = batch.ids.size();
  if (batch.position_ids.size() != t || batch.segment_start.size() != t ||
      batch.targets.size() != t) {
    return InvalidArgument("batch of {} ids has {} positions, {} segment starts, {} targets", t,
                           batch.position_ids.size(), batch.segment_start.size(),
                           batch.targets.size());
  }
  if (t > kMaxBatchRows) {
    return ResourceExhausted("batch of {} tokens: the limit is {}, use fewer rows a batch", t,
                             kMaxBatchRows);
  }
  TG_RETURN_IF_ERROR(CheckIds(batch.ids));
  int32_t previous = 0;
  for (size_t i = 0; i < t; ++i) {
    const int32_t start = batch.segment_start[i];
    const int32_t row = static_cast<int32_t>(i);
    if (start != row && (i == 0 || start != previous)) {
      return InvalidArgument("batch row {} is in a segment that starts at {}, expected {} or {}", i,
                             start, previous, i);
    }
    previous = start;
    if (batch.position_ids[i] < 0 || batch.position_ids[i] >= config_.max_positions) {
      return InvalidArgument(
          "batch row {} has position {}, the model has 0 to {}: cut the sequences to {} tokens", i,
          batch.position_ids[i], config_.max_positions - 1, config_.max_positions);
    }
    if (batch.targets[i] < -1 || batch.targets[i] >= config_.vocab_size) {
      return InvalidArgument("batch row {} has target {}, the model has ids 0 to {}", i,
                             batch.targets[i], config_.vocab_size - 1);
    }
  }
  return OkStatus();
}

Error TransformerEngine::OutOfMemory(int64_t rows) const {
  return ResourceExhausted(
      "{} tokens do not fit in memory (the engine holds {} MiB): use fewer or shorter rows a batch",
      rows, MemoryBytes() >> 20);
}

size_t TransformerEngine::MemoryBytes() const {
  return copies_.size() + gradients_.size() + arena_.bytes() + residence_.scratch_bytes() +
         logits_.size();
}

Result<LossSum> TransformerEngine::ForwardBackward(const tokens::PackedBatch& batch, uint64_t seed,
                                                   uint32_t micro_step) {
  TG_RETURN_IF_ERROR(CheckBatch(batch));
  Rows rows;
  rows.dropout = lora_.dropout > 0;
  rows.seed = seed;
  rows.micro_step = micro_step;
  try {
    Forward(batch, options_.gradient_checkpointing ? Purpose::kTrainCheckpoint : Purpose::kTrain,
            &rows);
    if (Trains() && !head_rows_.empty()) Backward(rows);
    return SumLosses();
  } catch (const std::bad_alloc&) {
    return OutOfMemory(static_cast<int64_t>(batch.ids.size()));
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
}

Result<int64_t> TransformerEngine::Losses(const tokens::PackedBatch& batch) {
  TG_RETURN_IF_ERROR(CheckBatch(batch));
  Rows rows;
  try {
    Forward(batch, Purpose::kEvaluate, &rows);
  } catch (const std::bad_alloc&) {
    return OutOfMemory(static_cast<int64_t>(batch.ids.size()));
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
  return static_cast<int64_t>(head_rows_.size());
}

Result<LossSum> TransformerEngine::Evaluate(const tokens::PackedBatch& batch) {
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const int64_t count, Losses(batch));
  return SumLosses();
}

Result<std::vector<double>> TransformerEngine::TokenLosses(const tokens::PackedBatch& batch) {
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const int64_t count, Losses(batch));
  const std::span<const double> losses = FetchLosses();
  return std::vector<double>(losses.begin(), losses.end());
}

std::span<const double> TransformerEngine::FetchLosses() {
  losses_.resize(head_rows_.size());
  if (losses_.empty()) return losses_;
  if (table_.dtype == DType::kF64) {
    residence_.ToHost(losses_.data(), activations_->loss, losses_.size() * sizeof(double));
    return losses_;
  }
  std::vector<float> narrow(losses_.size());
  residence_.ToHost(narrow.data(), activations_->loss, narrow.size() * sizeof(float));
  std::copy(narrow.begin(), narrow.end(), losses_.begin());
  return losses_;
}

LossSum TransformerEngine::SumLosses() {
  LossSum sum;
  sum.targets = static_cast<int64_t>(head_rows_.size());
  for (const double loss : FetchLosses()) sum.loss += loss;
  return sum;
}

}  // namespace tidegate::model
