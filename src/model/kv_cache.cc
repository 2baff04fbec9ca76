#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace tidegate::model {
namespace {

constexpr int64_t kFirstRows = 256;

}  // namespace

KvCache::KvCache(const ModelConfig& config, kernels::DType dtype, const kernels::Device* device)
    : device_(device),
      row_bytes_(static_cast<size_t>(config.kv_size()) * kernels::SizeOf(dtype)),
      max_positions_(config.max_positions),
      keys_(static_cast<size_t>(config.num_layers)),
      values_(static_cast<size_t>(config.num_layers)) {}

size_t KvCache::BytesFor(const ModelConfig& config, kernels::DType dtype, int64_t positions) {
  return static_cast<size_t>(positions) * static_cast<size_t>(config.num_layers) * 2 *
         static_cast<size_t>(config.kv_size()) * kernels::SizeOf(dtype);
}

size_t KvCache::bytes() const {
  return static_cast<size_t>(rows_) * row_bytes_ * (keys_.size() + values_.size());
}

void KvCache::Truncate(int64_t length) {
  ids_.resize(static_cast<size_t>(std::clamp<int64_t>(length, 0, this->length())));
}

void KvCache::Reserve(int64_t positions) {
  positions = std::min(positions, max_positions_);
  if (positions <= rows_) return;
  ids_.reserve(static_cast<size_t>(positions));
  // Layer by layer, so that no more than one is there twice. `rows_` stays what all of them hold.
  for (std::vector<AlignedBuffer>* buffers : {&keys_, &values_}) {
    for (AlignedBuffer& buffer : *buffers) {
      AlignedBuffer grown(static_cast<size_t>(positions) * row_bytes_, device_);
      const size_t held = ids_.size() * row_bytes_;
      if (held > 0 && device_ != nullptr) {
        const kernels::Context context;
        device_->copy(context, grown.data(), buffer.data(), held);
        device_->synchronize(context);
      } else if (held > 0) {
        std::memcpy(grown.data(), buffer.data(), held);
      }
      buffer = std::move(grown);
    }
  }
  rows_ = positions;
}

void KvCache::ReserveMore(int64_t count) {
  const int64_t wanted = length() + count;
  if (wanted > rows_) Reserve(std::max({wanted, 2 * rows_, kFirstRows}));
}

Status CheckCachesFit(const ModelConfig& config, kernels::DType dtype, int64_t sequences,
                      int64_t positions, uint64_t available) {
  positions = std::min(positions, config.max_positions);
  const size_t each = KvCache::BytesFor(config, dtype, positions);
  if (each <= available / static_cast<uint64_t>(sequences)) return OkStatus();
  constexpr double kMiB = 1 << 20;
  const uint64_t fit = available / each;
  return ResourceExhausted(
      "the keys and values of {} answers of up to {} tokens take {:.0f} MiB, {:.0f} MiB are free: "
      "{}",
      sequences, positions, static_cast<double>(each) * static_cast<double>(sequences) / kMiB,
      static_cast<double>(available) / kMiB,
      fit > 0 ? fmt::format("--batch_size {} fits, or fewer --max_new_tokens", fit)
              : std::string("ask for fewer --max_new_tokens, or shorten the prompt"));
}

}  // namespace tidegate::model
