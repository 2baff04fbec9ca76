#include "model/activations.h"

#include <algorithm>

namespace tidegate::model {
namespace {

size_t Bytes(int64_t rows, int64_t cols, size_t element) {
  return static_cast<size_t>(rows) * static_cast<size_t>(cols) * element;
}

}  // namespace

void ActivationArena::LayOutLayer(Carver& carver, int64_t t, Purpose purpose, int layer, bool own,
                                  LayerBuffers* buffers) const {
  const size_t element = kernels::SizeOf(dtype_);
  const size_t statistic = kernels::SizeOf(kernels::GradType(dtype_));
  buffers->q = carver.Take(Bytes(t, config_.q_size(), element));
  buffers->k = carver.Take(Bytes(t, config_.kv_size(), element));
  buffers->v = carver.Take(Bytes(t, config_.kv_size(), element));
  buffers->attn = carver.Take(Bytes(t, config_.q_size(), element));
  buffers->lse = carver.Take(Bytes(t, config_.num_heads, statistic));
  buffers->mid = carver.Take(Bytes(t, config_.hidden_size, element));
  buffers->gate = carver.Take(Bytes(t, config_.intermediate_size, element));
  buffers->up = carver.Take(Bytes(t, config_.intermediate_size, element));
  if (IsTraining(purpose)) {
    buffers->input_rstd = carver.Take(Bytes(t, 1, statistic));
    buffers->mlp_rstd = carver.Take(Bytes(t, 1, statistic));
  }
  if (IsTraining(purpose) && config_.qk_norm) {
    buffers->q_raw = carver.Take(Bytes(t, config_.q_size(), element));
    buffers->k_raw = carver.Take(Bytes(t, config_.kv_size(), element));
    buffers->q_rstd = carver.Take(Bytes(t, config_.num_heads, statistic));
    buffers->k_rstd = carver.Take(Bytes(t, config_.num_kv_heads, statistic));
  }
  for (size_t i = 0; i < kModulesPerLayer; ++i) {
    const Module module = static_cast<Module>(i);
    const int64_t rank = own ? modules_.rank(layer, module) : modules_.widest(module);
    if (rank > 0) buffers->u[i] = carver.Take(Bytes(t, rank, element));
  }
}

void ActivationArena::LayOutBackward(Carver& carver, int64_t t) {
  const size_t element = kernels::SizeOf(dtype_);
  views_.dx = carver.Take(Bytes(t, config_.hidden_size, element));
  views_.dnorm = carver.Take(Bytes(t, config_.hidden_size, element));
  views_.dq = carver.Take(Bytes(t, config_.q_size(), element));
  views_.dk = carver.Take(Bytes(t, config_.kv_size(), element));
  views_.dv = carver.Take(Bytes(t, config_.kv_size(), element));
  views_.dattn = carver.Take(Bytes(t, config_.q_size(), element));
  views_.dgate = carver.Take(Bytes(t, config_.intermediate_size, element));
  views_.dup = carver.Take(Bytes(t, config_.intermediate_size, element));
}

size_t ActivationArena::LayOut(std::byte* base, int64_t t, int64_t head_rows, Purpose purpose) {
  const size_t element = kernels::SizeOf(dtype_);
  const size_t statistic = kernels::SizeOf(kernels::GradType(dtype_));
  const size_t layers = static_cast<size_t>(config_.num_layers);
  const int64_t hidden = config_.hidden_size;
  const bool train = IsTraining(purpose);
  Carver carver(base);
  views_ = Activations();
  views_.cos = static_cast<float*>(carver.Take(Bytes(t, config_.head_dim / 2, sizeof(float))));
  views_.sin = static_cast<float*>(carver.Take(Bytes(t, config_.head_dim / 2, sizeof(float))));
  if (device_ != nullptr) {
    views_.ids = carver.Take(Bytes(t, 1, sizeof(int32_t)));
    views_.segment_start = carver.Take(Bytes(t, 1, sizeof(int32_t)));
    views_.targets = carver.Take(Bytes(head_rows, 1, sizeof(int32_t)));
  }
  views_.x.resize(layers + 1);
  views_.layers.resize(layers);
  // Nothing is asked of what lies below on the way back.
  const size_t trained = all_weights_ ? 0 : static_cast<size_t>(modules_.lowest_layer());
  const size_t lowest = train ? trained : layers;
  for (size_t i = 0; i <= layers; ++i) {
    const bool free = i >= 2 && i - 2 < lowest;
    views_.x[i] = free ? views_.x[i - 2] : carver.Take(Bytes(t, hidden, element));
  }
  const LayerBuffers* shared = nullptr;
  for (size_t i = 0; i < layers; ++i) {
    const bool own = purpose == Purpose::kTrain && i >= lowest;
    if (own || shared == nullptr) {
      LayOutLayer(carver, t, purpose, static_cast<int>(i), own, &views_.layers[i]);
      if (!own) shared = &views_.layers[i];
    } else {
      views_.layers[i] = *shared;
    }
  }
  views_.norm = carver.Take(Bytes(t, hidden, element));
  views_.act = carver.Take(Bytes(t, config_.intermediate_size, element));
  if (train) LayOutBackward(carver, t);
  if (train && dropout_) {
    const int64_t widest = std::max({hidden, config_.q_size(), config_.intermediate_size});
    views_.drop = carver.Take(Bytes(t, widest, element));
    views_.drop_dx = carver.Take(Bytes(t, widest, element));
  }
  views_.head_x = carver.Take(Bytes(head_rows, hidden, element));
  views_.head_h = carver.Take(Bytes(head_rows, hidden, element));
  views_.head_rstd = carver.Take(Bytes(head_rows, 1, statistic));
  views_.loss = carver.Take(Bytes(head_rows, 1, statistic));
  if (train) {
    views_.head_dh = carver.Take(Bytes(head_rows, hidden, element));
    views_.head_dx = carver.Take(Bytes(head_rows, hidden, element));
  }
  if (train && all_weights_) views_.head_lse = carver.Take(Bytes(head_rows, 1, statistic));
  return carver.used();
}

const Activations& ActivationArena::Prepare(int64_t t, int64_t head_rows, Purpose purpose) {
  const size_t bytes = LayOut(nullptr, t, head_rows, purpose);
  if (bytes > memory_.size()) {
    memory_ = AlignedBuffer();  // the old one first: both need not fit
    memory_ = AlignedBuffer(bytes, device_);
  }
  LayOut(memory_.data(), t, head_rows, purpose);
  return views_;
}

}  // namespace tidegate::model
