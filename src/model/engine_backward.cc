// Gradients of the adapters, or of all weights. For adapters the base is frozen, so a linear layer
// passes on dx = dy W only; the embedding is frozen too, so nothing is computed below the lowest
// adapter.
#include "model/engine.h"

namespace tidegate::model {

TransformerEngine::Needs TransformerEngine::NeedsOf(int layer) const {
  if (weight_gradients_ != nullptr || layer > modules_.lowest_layer()) return {};
  const auto has = [&](Module module) { return modules_.Has(layer, module); };
  const bool qkv = has(Module::kQ) || has(Module::kK) || has(Module::kV);
  const bool mid = qkv || has(Module::kO);
  const bool act = mid || has(Module::kGate) || has(Module::kUp);
  return {act, mid, qkv, false};
}

void* TransformerEngine::GradientAt(int64_t offset) const {
  return weight_gradients_->data + static_cast<size_t>(offset) * grad_element_;
}

void TransformerEngine::TellFinal(int64_t begin) const {
  if (weight_gradients_->on_final) weight_gradients_->on_final(begin);
}

void TransformerEngine::AddNormGradient(int64_t m, int64_t n, const void* x, const void* rstd,
                                        const void* dy, int64_t offset) {
  table_.rmsnorm_gradient(context_, {m, n, x, rstd, dy, GradientAt(offset)});
}

void TransformerEngine::AddLinearGradient(int layer, Module module, const Rows& rows, const void* x,
                                          const void* dy) {
  if (weight_gradients_ == nullptr) return;
  const LayerOffsets& at = weight_gradients_->layout->layers[static_cast<size_t>(layer)];
  const size_t index = static_cast<size_t>(module);
  const ModuleShape shape = ShapeOf(config_, module);
  void* db = at.bias[index] < 0 ? nullptr : GradientAt(at.bias[index]);
  table_.linear_gradient(context_,
                         {rows.m, shape.out, shape.in, x, dy, GradientAt(at.linear[index]), db});
}

// Of the head, which may be the embedding too, and of the norm before it.
void TransformerEngine::AddHeadGradient() {
  if (weight_gradients_ == nullptr) return;
  const Activations& a = *activations_;
  const FlatLayout& layout = *weight_gradients_->layout;
  const int64_t m = static_cast<int64_t>(head_rows_.size());
  table_.head_gradient(context_, {base_->head(), m, a.head_h, targets_, nullptr, a.head_lse,
                                  GradientAt(layout.head)});
  AddNormGradient(m, config_.hidden_size, a.head_x, a.head_rstd, a.head_dh, layout.final_norm);
  TellFinal(layout.final_norm);
}

// Adds the module's dA and dB; writes (or adds to) dx unless it is null.
void TransformerEngine::BackwardLinear(int layer, Module module, const Rows& rows, const void* x,
                                       const void* dy, bool accumulate, void* dx) {
  const size_t index = static_cast<size_t>(module);
  const kernels::PreparedWeights* w =
      base_->layers()[static_cast<size_t>(layer)].linear[index].get();
  kernels::LinearBackwardArgs base{w, rows.m, dy, accumulate, dx};
  const bool adapted = modules_.Has(layer, module);
  AddLinearGradient(layer, module, rows, x, dy);
  if (dx != nullptr && (!adapted || rows.dropout)) table_.linear_backward(context_, base);
  if (!adapted) return;
  const Activations& a = *activations_;
  const ModuleSlot slot = Slot(layer, module);
  kernels::LoraBackwardArgs args{rows.m,    w->n(),
                                 w->k(),    modules_.rank(layer, module),
                                 x,         a.layers[static_cast<size_t>(layer)].u[index],
                                 dy,        slot.a,
                                 slot.b,    slot.da,
                                 slot.db_t, true,
                                 dx};
  if (!rows.dropout && dx == nullptr) return table_.lora_backward(context_, args);
  if (!rows.dropout) {
    base.lora = &args;
    table_.linear_backward(context_, base);
    return;
  }
  // The adapter saw the dropped x: the same mask again for dA, and for what flows into dx.
  const int64_t count = rows.m * w->k();
  const kernels::DropoutKey key = DropoutKeyOf(layer, module, rows);
  table_.dropout_forward(context_, {count, lora_.dropout, key, x, a.drop});
  args.x = a.drop;
  args.accumulate_dx = false;
  args.dx = dx == nullptr ? nullptr : a.drop_dx;
  table_.lora_backward(context_, args);
  if (dx != nullptr) {
    table_.dropout_backward(context_, {count, lora_.dropout, key, a.drop_dx, dx});
  }
}

void TransformerEngine::BackwardHead(int64_t t) {
  const Activations& a = *activations_;
  const int64_t m = static_cast<int64_t>(head_rows_.size());
  AddHeadGradient();
  table_.rmsnorm_backward(context_, {m, config_.hidden_size, a.head_x, base_->final_norm(),
                                     a.head_rstd, a.head_dh, false, a.head_dx});
  const size_t row_bytes = static_cast<size_t>(config_.hidden_size) * element_;
  residence_.Zero(a.dx, static_cast<size_t>(t) * row_bytes);
  MoveHeadRows(a.head_dx, a.dx, true);
}

bool TransformerEngine::BackwardMlp(int layer, const Rows& rows) {
  const Activations& a = *activations_;
  const LayerBuffers& b = a.layers[static_cast<size_t>(layer)];
  const LayerWeights& weights = base_->layers()[static_cast<size_t>(layer)];
  const Needs needs = NeedsOf(layer);
  const int64_t inner = rows.m * config_.intermediate_size;
  const bool all = weight_gradients_ != nullptr;
  if (all || modules_.Has(layer, Module::kDown)) {
    table_.swiglu_forward(context_, {inner, b.gate, b.up, a.act});
  }
  BackwardLinear(layer, Module::kDown, rows, a.act, a.dx, false, needs.act ? a.dgate : nullptr);
  if (!needs.act) return false;
  table_.swiglu_backward(context_, {inner, b.gate, b.up, a.dgate, a.dgate, a.dup, nullptr});
  if (all || modules_.Has(layer, Module::kGate) || modules_.Has(layer, Module::kUp)) {
    Norm(rows.m, b.mid, weights.mlp_norm, a.norm, nullptr);
  }
  void* dnorm = needs.mid ? a.dnorm : nullptr;
  BackwardLinear(layer, Module::kGate, rows, a.norm, a.dgate, false, dnorm);
  BackwardLinear(layer, Module::kUp, rows, a.norm, a.dup, true, dnorm);
  if (!needs.mid) return false;
  if (all) {
    AddNormGradient(rows.m, config_.hidden_size, b.mid, b.mlp_rstd, dnorm,
                    weight_gradients_->layout->layers[static_cast<size_t>(layer)].mlp_norm);
  }
  table_.rmsnorm_backward(context_, {rows.m, config_.hidden_size, b.mid, weights.mlp_norm,
                                     b.mlp_rstd, dnorm, true, a.dx});
  return true;
}

// From the gradients of the rotated q and k to those of their linear layers, in place.
void TransformerEngine::BackwardQueriesAndKeys(int layer, const Rows& rows) {
  const Activations& a = *activations_;
  const LayerBuffers& b = a.layers[static_cast<size_t>(layer)];
  const LayerWeights& weights = base_->layers()[static_cast<size_t>(layer)];
  table_.rope(context_,
              {rows.m, config_.num_heads, config_.head_dim, rows.cos, rows.sin, true, a.dq});
  table_.rope(context_,
              {rows.m, config_.num_kv_heads, config_.head_dim, rows.cos, rows.sin, true, a.dk});
  if (!config_.qk_norm) return;
  if (weight_gradients_ != nullptr) {
    const LayerOffsets& at = weight_gradients_->layout->layers[static_cast<size_t>(layer)];
    AddNormGradient(rows.m * config_.num_heads, config_.head_dim, b.q_raw, b.q_rstd, a.dq,
                    at.q_norm);
    AddNormGradient(rows.m * config_.num_kv_heads, config_.head_dim, b.k_raw, b.k_rstd, a.dk,
                    at.k_norm);
  }
  table_.rmsnorm_backward(context_, {rows.m * config_.num_heads, config_.head_dim, b.q_raw,
                                     weights.q_norm, b.q_rstd, a.dq, false, a.dq});
  table_.rmsnorm_backward(context_, {rows.m * config_.num_kv_heads, config_.head_dim, b.k_raw,
                                     weights.k_norm, b.k_rstd, a.dk, false, a.dk});
}

bool TransformerEngine::BackwardAttention(int layer, const Rows& rows) {
  const Activations& a = *activations_;
  const size_t l = static_cast<size_t>(layer);
  const LayerBuffers& b = a.layers[l];
  const LayerWeights& weights = base_->layers()[l];
  const Needs needs = NeedsOf(layer);
  BackwardLinear(layer, Module::kO, rows, b.attn, a.dx, false, needs.attn ? a.dattn : nullptr);
  if (!needs.attn) return false;
  table_.attention_backward(context_, {{rows.m, config_.num_heads, config_.num_kv_heads,
                                        config_.head_dim, rows.segment_start},
                                       b.q,
                                       b.k,
                                       b.v,
                                       b.attn,
                                       b.lse,
                                       a.dattn,
                                       a.dq,
                                       a.dk,
                                       a.dv});
  BackwardQueriesAndKeys(layer, rows);
  const bool all = weight_gradients_ != nullptr;
  if (all || modules_.Has(layer, Module::kQ) || modules_.Has(layer, Module::kK) ||
      modules_.Has(layer, Module::kV)) {
    Norm(rows.m, a.x[l], weights.input_norm, a.norm, nullptr);
  }
  void* dnorm = needs.input ? a.dnorm : nullptr;
  BackwardLinear(layer, Module::kQ, rows, a.norm, a.dq, false, dnorm);
  BackwardLinear(layer, Module::kK, rows, a.norm, a.dk, true, dnorm);
  BackwardLinear(layer, Module::kV, rows, a.norm, a.dv, true, dnorm);
  if (!needs.input) return false;
  if (all) {
    AddNormGradient(rows.m, config_.hidden_size, a.x[l], b.input_rstd, dnorm,
                    weight_gradients_->layout->layers[l].input_norm);
  }
  table_.rmsnorm_backward(context_, {rows.m, config_.hidden_size, a.x[l], weights.input_norm,
                                     b.input_rstd, dnorm, true, a.dx});
  return true;
}

void TransformerEngine::Recompute(int layer, const Rows& rows) {
  const size_t l = static_cast<size_t>(layer);
  // The layer's output is known to be x[l + 1] and goes where the next gradient is yet to be made.
  ForwardLayer(layer, rows, activations_->layers[l], activations_->x[l], activations_->dnorm);
}

void TransformerEngine::Backward(const Rows& rows) {
  BackwardHead(rows.m);
  const int last = static_cast<int>(config_.num_layers) - 1;
  for (int layer = last; layer >= 0; --layer) {
    // The last layer's activations still stand from the way forward.
    if (options_.gradient_checkpointing && layer < last) Recompute(layer, rows);
    if (!BackwardMlp(layer, rows) || !BackwardAttention(layer, rows)) return;
    if (weight_gradients_ != nullptr) {
      TellFinal(weight_gradients_->layout->layers[static_cast<size_t>(layer)].begin);
    }
  }
  if (weight_gradients_ == nullptr) return;
  table_.embedding_gradient(context_, {rows.m, config_.hidden_size, ids_, activations_->dx,
                                       GradientAt(weight_gradients_->layout->embedding)});
  TellFinal(0);
}

}  // namespace tidegate::model
