#include "model/engine.h"

namespace tidegate::model {

void TransformerEngine::Norm(int64_t m, const void* x, const void* w, void* y, void* rstd) {
  table_.rmsnorm_forward(context_, {m, config_.hidden_size, x, w, config_.rms_norm_eps, y, rstd});
}

// y = x Wᵀ (+ bias) (+ residual) + s · dropout(x) Aᵀ Bᵀ, s being in the compute copy of B.
void TransformerEngine::ForwardLinear(int layer, Module module, const Rows& rows, const void* x,
                                      const void* residual, const LayerBuffers& buffers, void* y) {
  const size_t index = static_cast<size_t>(module);
  const LayerWeights& weights = base_->layers()[static_cast<size_t>(layer)];
  const kernels::PreparedWeights* w = weights.linear[index].get();
  kernels::LinearForwardArgs args{w, rows.m, x, residual, y, weights.bias[index]};
  if (!modules_.Has(layer, module)) return table_.linear_forward(context_, args);
  const ModuleSlot slot = Slot(layer, module);
  kernels::LoraForwardArgs lora{
      rows.m, w->n(), w->k(), modules_.rank(layer, module), x, slot.a, slot.b, buffers.u[index], y};
  if (!rows.dropout) {
    args.lora = &lora;
    table_.linear_forward(context_, args);
    return;
  }
  table_.linear_forward(context_, args);
  table_.dropout_forward(context_, {rows.m * w->k(), lora_.dropout,
                                    DropoutKeyOf(layer, module, rows), x, activations_->drop});
  lora.x = activations_->drop;
  table_.lora_forward(context_, lora);
}

// q and k, normalised per head where the family does so, and rotated.
void TransformerEngine::ForwardQueriesAndKeys(int layer, const Rows& rows, const LayerBuffers& b) {
  const LayerWeights& weights = base_->layers()[static_cast<size_t>(layer)];
  const void* norm = activations_->norm;
  void* q = b.q_raw != nullptr ? b.q_raw : b.q;
  void* k = b.k_raw != nullptr ? b.k_raw : b.k;
  ForwardLinear(layer, Module::kQ, rows, norm, nullptr, b, q);
  ForwardLinear(layer, Module::kK, rows, norm, nullptr, b, k);
  if (config_.qk_norm) {
    const double eps = config_.rms_norm_eps;
    table_.rmsnorm_forward(context_, {rows.m * config_.num_heads, config_.head_dim, q,
                                      weights.q_norm, eps, b.q, b.q_rstd});
    table_.rmsnorm_forward(context_, {rows.m * config_.num_kv_heads, config_.head_dim, k,
                                      weights.k_norm, eps, b.k, b.k_rstd});
  }
  table_.rope(context_,
              {rows.m, config_.num_heads, config_.head_dim, rows.cos, rows.sin, false, b.q});
  table_.rope(context_,
              {rows.m, config_.num_kv_heads, config_.head_dim, rows.cos, rows.sin, false, b.k});
}

void TransformerEngine::ForwardLayer(int layer, const Rows& rows, const LayerBuffers& b,
                                     const void* x, void* y) {
  const LayerWeights& weights = base_->layers()[static_cast<size_t>(layer)];
  const Activations& a = *activations_;
  Norm(rows.m, x, weights.input_norm, a.norm, b.input_rstd);
  ForwardQueriesAndKeys(layer, rows, b);
  ForwardLinear(layer, Module::kV, rows, a.norm, nullptr, b, b.v);
  if (rows.caches.empty()) {
    table_.attention_forward(context_, {{rows.m, config_.num_heads, config_.num_kv_heads,
                                         config_.head_dim, rows.segment_start},
                                        b.q,
                                        b.k,
                                        b.v,
                                        b.attn,
                                        b.lse});
  } else {
    AttendToCaches(layer, rows, b);
  }
  ForwardLinear(layer, Module::kO, rows, b.attn, x, b, b.mid);
  Norm(rows.m, b.mid, weights.mlp_norm, a.norm, b.mlp_rstd);
  ForwardLinear(layer, Module::kGate, rows, a.norm, nullptr, b, b.gate);
  ForwardLinear(layer, Module::kUp, rows, a.norm, nullptr, b, b.up);
  table_.swiglu_forward(context_, {rows.m * config_.intermediate_size, b.gate, b.up, a.act});
  ForwardLinear(layer, Module::kDown, rows, a.act, b.mid, b, y);
}

void TransformerEngine::ForwardHead(const tokens::PackedBatch& batch, bool with_gradient) {
  const Activations& a = *activations_;
  const int64_t m = static_cast<int64_t>(head_rows_.size());
  if (m == 0) return;
  head_targets_.clear();
  for (const int32_t row : head_rows_) {
    head_targets_.push_back(batch.targets[static_cast<size_t>(row)]);
  }
  MoveHeadRows(a.head_x, a.x.back(), false);
  Norm(m, a.head_x, base_->final_norm(), a.head_h, a.head_rstd);
  targets_ = residence_.In(head_targets_.data(), head_targets_.size(), a.targets);
  table_.head_loss(context_, {base_->head(), m, a.head_h, targets_, nullptr, a.loss,
                              with_gradient ? a.head_dh : nullptr, a.head_lse});
}

void TransformerEngine::MoveHeadRows(void* packed, void* rows, bool back) {
  const size_t row_bytes = static_cast<size_t>(config_.hidden_size) * element_;
  for (size_t i = 0; i < head_rows_.size();) {
    size_t end = i + 1;
    while (end < head_rows_.size() && head_rows_[end] == head_rows_[end - 1] + 1) ++end;
    std::byte* one = static_cast<std::byte*>(packed) + i * row_bytes;
    std::byte* other =
        static_cast<std::byte*>(rows) + static_cast<size_t>(head_rows_[i]) * row_bytes;
    residence_.Copy(back ? other : one, back ? one : other, (end - i) * row_bytes);
    i = end;
  }
}

void TransformerEngine::FillRope(std::span<const int32_t> positions, Rows* rows) {
  const Activations& a = *activations_;
  rows->cos = a.cos;
  rows->sin = a.sin;
  if (residence_.device() == nullptr) return rope_.Fill(positions, a.cos, a.sin);
  const size_t count = positions.size() * static_cast<size_t>(config_.head_dim / 2);
  rope_rows_.resize(2 * count);
  rope_.Fill(positions, rope_rows_.data(), rope_rows_.data() + count);
  residence_.In(rope_rows_.data(), count, a.cos);
  residence_.In(rope_rows_.data() + count, count, a.sin);
}

void TransformerEngine::Forward(const tokens::PackedBatch& batch, Purpose purpose, Rows* rows) {
  head_rows_.clear();
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    if (batch.targets[i] >= 0) head_rows_.push_back(static_cast<int32_t>(i));
  }
  if (head_rows_.empty()) return;  // nothing to predict, so nothing to compute
  rows->m = static_cast<int64_t>(batch.ids.size());
  activations_ = &arena_.Prepare(rows->m, static_cast<int64_t>(head_rows_.size()), purpose);
  const Activations& a = *activations_;
  FillRope(batch.position_ids, rows);
  rows->segment_start =
      residence_.In(batch.segment_start.data(), batch.segment_start.size(), a.segment_start);
  ids_ = residence_.In(batch.ids.data(), batch.ids.size(), a.ids);
  table_.embedding(context_, {base_->embedding(), rows->m, ids_, a.x[0]});
  for (int layer = 0; layer < static_cast<int>(config_.num_layers); ++layer) {
    const size_t l = static_cast<size_t>(layer);
    ForwardLayer(layer, *rows, a.layers[l], a.x[l], a.x[l + 1]);
  }
  ForwardHead(batch, IsTraining(purpose) && Trains());
}

}  // namespace tidegate::model
