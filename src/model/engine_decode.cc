#include "model/engine.h"

namespace tidegate::model {

KvCache TransformerEngine::NewCache() const {
  return KvCache(config_, table_.dtype, table_.device);
}

// The rows' keys and values go to the caches, and each row sees those of its own sequence.
void TransformerEngine::AttendToCaches(int layer, const Rows& rows, const LayerBuffers& b) {
  const int64_t each = rows.m / static_cast<int64_t>(rows.caches.size());
  const size_t q_bytes = static_cast<size_t>(each * config_.q_size()) * element_;
  const size_t kv_bytes = static_cast<size_t>(each * config_.kv_size()) * element_;
  const size_t row_bytes = static_cast<size_t>(config_.kv_size()) * element_;
  for (size_t i = 0; i < rows.caches.size(); ++i) {
    KvCache& cache = *rows.caches[i];
    const size_t past = static_cast<size_t>(cache.length());
    const auto at = [i](void* buffer, size_t bytes) {
      return static_cast<std::byte*>(buffer) + i * bytes;
    };
    residence_.Copy(cache.keys(layer) + past * row_bytes, at(b.k, kv_bytes), kv_bytes);
    residence_.Copy(cache.values(layer) + past * row_bytes, at(b.v, kv_bytes), kv_bytes);
    table_.attention_decode(
        context_, {each, cache.length(), config_.num_heads, config_.num_kv_heads, config_.head_dim,
                   at(b.q, q_bytes), cache.keys(layer), cache.values(layer), at(b.attn, q_bytes)});
  }
}

void TransformerEngine::DecodeRows(std::span<const int32_t> ids, std::span<const int32_t> positions,
                                   Rows* rows, int64_t head_rows) {
  activations_ = &arena_.Prepare(rows->m, head_rows, Purpose::kEvaluate);
  const Activations& a = *activations_;
  FillRope(positions, rows);
  const int32_t* of_rows = residence_.In(ids.data(), ids.size(), a.ids);
  table_.embedding(context_, {base_->embedding(), rows->m, of_rows, a.x[0]});
  for (int layer = 0; layer < static_cast<int>(config_.num_layers); ++layer) {
    const size_t l = static_cast<size_t>(layer);
    ForwardLayer(layer, *rows, a.layers[l], a.x[l], a.x[l + 1]);
  }
  // The last rows alone reach the head.
  const size_t row_bytes = static_cast<size_t>(config_.hidden_size) * element_;
  const size_t first = static_cast<size_t>(rows->m - head_rows);
  Norm(head_rows, static_cast<const std::byte*>(a.x.back()) + first * row_bytes,
       base_->final_norm(), a.head_h, nullptr);
}

std::span<float> TransformerEngine::HeadLogits(int64_t m) {
  const size_t count = static_cast<size_t>(m * config_.vocab_size);
  if (logits_.size() < count * sizeof(float)) logits_ = AlignedBuffer(count * sizeof(float));
  const std::span<float> out(reinterpret_cast<float*>(logits_.data()), count);
  if (table_.device != nullptr) {
    if (device_logits_.size() < count * sizeof(float)) {
      device_logits_ = AlignedBuffer(count * sizeof(float), table_.device);
    }
    table_.logits(context_, {base_->head(), m, activations_->head_h, device_logits_.data()});
    residence_.ToHost(out.data(), device_logits_.data(), count * sizeof(float));
    return out;
  }
  if (table_.dtype != kernels::DType::kF64) {
    table_.logits(context_, {base_->head(), m, activations_->head_h, out.data()});
    return out;
  }
  std::vector<double> wide(count);
  table_.logits(context_, {base_->head(), m, activations_->head_h, wide.data()});
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(wide[i]);
  return out;
}

Result<std::span<float>> TransformerEngine::Append(KvCache& cache, std::span<const int32_t> ids) {
  if (ids.empty()) return InvalidArgument("no token to append: give at least one");
  TG_RETURN_IF_ERROR(CheckIds(ids));
  if (static_cast<int64_t>(ids.size()) > config_.max_positions - cache.length()) {
    return FailedPrecondition(
        "the sequence would have {} tokens, the model has {} positions: shorten the prompt or the "
        "answer",
        cache.ids().size() + ids.size(), config_.max_positions);
  }
  KvCache* const caches[] = {&cache};
  Rows rows;
  rows.m = static_cast<int64_t>(ids.size());
  rows.caches = caches;
  try {
    cache.ReserveMore(rows.m);
    std::vector<int32_t> positions(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      positions[i] = static_cast<int32_t>(cache.ids().size() + i);
    }
    DecodeRows(ids, positions, &rows, 1);
    const std::span<float> logits = HeadLogits(1);
    cache.Extend(ids);
    return logits;
  } catch (const std::bad_alloc&) {
    return OutOfMemory(cache.length() + rows.m);
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
}

Result<std::span<float>> TransformerEngine::Step(std::span<KvCache* const> caches,
                                                 std::span<const int32_t> ids) {
  if (caches.empty() || caches.size() != ids.size() || caches.size() > kMaxStepSequences) {
    return InvalidArgument("a step of {} sequences with {} tokens: give 1 to {} sequences a token",
                           caches.size(), ids.size(), kMaxStepSequences);
  }
  TG_RETURN_IF_ERROR(CheckIds(ids));
  for (const KvCache* cache : caches) {
    if (cache->length() < config_.max_positions) continue;
    return FailedPrecondition("a sequence has all {} positions of the model: end it",
                              config_.max_positions);
  }
  Rows rows;
  rows.m = static_cast<int64_t>(ids.size());
  rows.caches = caches;
  try {
    std::vector<int32_t> positions;
    for (KvCache* cache : caches) {
      cache->ReserveMore(1);
      positions.push_back(static_cast<int32_t>(cache->length()));
    }
    DecodeRows(ids, positions, &rows, rows.m);
    const std::span<float> logits = HeadLogits(rows.m);
    for (size_t i = 0; i < caches.size(); ++i) caches[i]->Extend(ids.subspan(i, 1));
    return logits;
  } catch (const std::bad_alloc&) {
    return OutOfMemory(rows.m);
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
}

}  // namespace tidegate::model
