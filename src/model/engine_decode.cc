#include <algorithm>
#include <cstring>

#include "model/engine.h"

namespace tidegate::model {
namespace {

constexpr int64_t kFirstCacheRows = 256;

}  // namespace

void TransformerEngine::ReserveCache(int64_t rows) {
  if (rows <= cache_rows_) return;
  const int64_t grown =
      std::min(std::max({rows, 2 * cache_rows_, kFirstCacheRows}), config_.max_positions);
  const size_t row_bytes = static_cast<size_t>(config_.kv_size()) * element_;
  k_cache_.resize(static_cast<size_t>(config_.num_layers));
  v_cache_.resize(static_cast<size_t>(config_.num_layers));
  for (std::vector<AlignedBuffer>* caches : {&k_cache_, &v_cache_}) {
    for (AlignedBuffer& cache : *caches) {
      AlignedBuffer next(static_cast<size_t>(grown) * row_bytes);
      if (length_ > 0) {
        std::memcpy(next.data(), cache.data(), static_cast<size_t>(length_) * row_bytes);
      }
      cache = std::move(next);
    }
  }
  cache_rows_ = grown;
}

std::vector<float> TransformerEngine::LastLogits(const void* row) {
  const Activations& a = *activations_;
  Norm(1, row, base_->final_norm(), a.head_h, nullptr);
  const size_t vocab = static_cast<size_t>(config_.vocab_size);
  std::vector<float> logits(vocab);
  if (table_.dtype == kernels::DType::kF64) {
    std::vector<double> wide(vocab);
    table_.logits(context_, {base_->head(), 1, a.head_h, wide.data()});
    for (size_t i = 0; i < vocab; ++i) logits[i] = static_cast<float>(wide[i]);
  } else {
    table_.logits(context_, {base_->head(), 1, a.head_h, logits.data()});
  }
  return logits;
}

std::vector<float> TransformerEngine::AppendRows(std::span<const int32_t> ids) {
  Rows rows;
  rows.m = static_cast<int64_t>(ids.size());
  rows.past = length_;
  ReserveCache(length_ + rows.m);
  activations_ = &arena_.Prepare(rows.m, 1, Purpose::kDecode);
  const Activations& a = *activations_;
  std::vector<int32_t> positions(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) positions[i] = static_cast<int32_t>(length_ + i);
  rope_.Fill(positions, a.cos, a.sin);
  rows.cos = a.cos;
  rows.sin = a.sin;
  // A whole prompt is one segment of ordinary attention; its keys and values stay in the cache.
  const std::vector<int32_t> one_segment(length_ == 0 ? ids.size() : 0, 0);
  if (length_ == 0) rows.segment_start = one_segment.data();
  table_.embedding(context_, {base_->embedding(), rows.m, ids.data(), a.x[0]});
  const size_t past_bytes = static_cast<size_t>(length_ * config_.kv_size()) * element_;
  for (int layer = 0; layer < static_cast<int>(config_.num_layers); ++layer) {
    const size_t l = static_cast<size_t>(layer);
    LayerBuffers buffers = a.layers[l];
    buffers.k = k_cache_[l].data() + past_bytes;
    buffers.v = v_cache_[l].data() + past_bytes;
    ForwardLayer(layer, rows, buffers, a.x[l], a.x[l + 1]);
  }
  length_ += rows.m;
  const size_t row_bytes = static_cast<size_t>(config_.hidden_size) * element_;
  return LastLogits(static_cast<const std::byte*>(a.x.back()) + (ids.size() - 1) * row_bytes);
}

Result<std::vector<float>> TransformerEngine::Append(std::span<const int32_t> ids) {
  if (ids.empty()) return InvalidArgument("no token to append: give at least one");
  TG_RETURN_IF_ERROR(CheckIds(ids));
  if (static_cast<int64_t>(ids.size()) > config_.max_positions - length_) {
    return FailedPrecondition(
        "the sequence would have {} tokens, the model has {} positions: shorten the prompt or the "
        "answer",
        static_cast<uint64_t>(length_) + ids.size(), config_.max_positions);
  }
  try {
    return AppendRows(ids);
  } catch (const std::bad_alloc&) {
    return OutOfMemory(length_ + static_cast<int64_t>(ids.size()));
  }
}

}  // namespace tidegate::model
