#include "model/activations.h"

#include <algorithm>

namespace tidegate::model {
namespace {

size_t Bytes(int64_t rows, int64_t cols, size_t element) {
  return static_cast<size_t>(rows) * static_cast<size_t>(cols) * element;
}

}  // namespace

void ActivationArena::LayOutLayer(Carver& carver, int64_t t, Purpose purpose,
                                  LayerBuffers* layer) const {
  const size_t element = kernels::SizeOf(dtype_);
  const size_t statistic = kernels::SizeOf(kernels::GradType(dtype_));
  layer->q = carver.Take(Bytes(t, config_.q_size(), element));
  layer->k = carver.Take(Bytes(t, config_.kv_size(), element));
  layer->v = carver.Take(Bytes(t, config_.kv_size(), element));
  layer->attn = carver.Take(Bytes(t, config_.q_size(), element));
  layer->lse = carver.Take(Bytes(t, config_.num_heads, statistic));
  layer->mid = carver.Take(Bytes(t, config_.hidden_size, element));
  layer->gate = carver.Take(Bytes(t, config_.intermediate_size, element));
  layer->up = carver.Take(Bytes(t, config_.intermediate_size, element));
  if (IsTraining(purpose)) {
    layer->input_rstd = carver.Take(Bytes(t, 1, statistic));
    layer->mlp_rstd = carver.Take(Bytes(t, 1, statistic));
  }
  if (IsTraining(purpose) && config_.qk_norm) {
    layer->q_raw = carver.Take(Bytes(t, config_.q_size(), element));
    layer->k_raw = carver.Take(Bytes(t, config_.kv_size(), element));
    layer->q_rstd = carver.Take(Bytes(t, config_.num_heads, statistic));
    layer->k_rstd = carver.Take(Bytes(t, config_.num_kv_heads, statistic));
  }
  for (const Module module : lora_.targets) {
    layer->u[static_cast<size_t>(module)] = carver.Take(Bytes(t, lora_.r, element));
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
  views_.x.resize(layers + 1);
  views_.layers.resize(layers);
  for (size_t i = 0; i <= layers; ++i) {
    views_.x[i] = train || i < 2 ? carver.Take(Bytes(t, hidden, element)) : views_.x[i - 2];
  }
  for (size_t i = 0; i < layers; ++i) {
    if (purpose == Purpose::kTrain || i == 0) {
      LayOutLayer(carver, t, purpose, &views_.layers[i]);
    } else {
      views_.layers[i] = views_.layers[0];
    }
  }
  views_.norm = carver.Take(Bytes(t, hidden, element));
  views_.act = carver.Take(Bytes(t, config_.intermediate_size, element));
  if (train) LayOutBackward(carver, t);
  if (train && lora_.dropout > 0) {
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
  return carver.used();
}

const Activations& ActivationArena::Prepare(int64_t t, int64_t head_rows, Purpose purpose) {
  const size_t bytes = LayOut(nullptr, t, head_rows, purpose);
  if (bytes > memory_.size()) {
    memory_ = AlignedBuffer();  // the old one first: both need not fit
    memory_ = AlignedBuffer(bytes);
  }
  LayOut(memory_.data(), t, head_rows, purpose);
  return views_;
}

}  // namespace tidegate::model
