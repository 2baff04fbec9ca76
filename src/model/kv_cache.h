// The keys and values of one sequence that is being generated, and the tokens they are of. Made by
// Engine::NewCache for engines of that base, filled by Engine::Append and Engine::Step. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/table.h"
#include "model/config.h"
#include "model/memory.h"

namespace tidegate::model {

class KvCache {
 public:
  // On a device the keys and values are in its memory.
  KvCache(const ModelConfig& config, kernels::DType dtype, const kernels::Device* device = nullptr);

  // What `positions` tokens take.
  static size_t BytesFor(const ModelConfig& config, kernels::DType dtype, int64_t positions);

  std::span<const int32_t> ids() const { return ids_; }
  int64_t length() const { return static_cast<int64_t>(ids_.size()); }
  int64_t max_positions() const { return max_positions_; }
  size_t bytes() const;

  // Forgets the tokens from `length` on. What stays is as it was when it was computed.
  void Truncate(int64_t length);
  // Makes room for so many tokens in all (at most max_positions), so that no later call of the
  // engine needs memory for them. Throws std::bad_alloc; the cache stays as it is then.
  void Reserve(int64_t positions);

  // For engines: room for `count` more tokens, growing by doubling; where a layer's rows are,
  // [length, kv_size]; and the tokens of the rows that were written there.
  void ReserveMore(int64_t count);
  std::byte* keys(int layer) { return keys_[static_cast<size_t>(layer)].data(); }
  std::byte* values(int layer) { return values_[static_cast<size_t>(layer)].data(); }
  void Extend(std::span<const int32_t> ids) { ids_.insert(ids_.end(), ids.begin(), ids.end()); }

 private:
  const kernels::Device* device_;
  size_t row_bytes_;
  int64_t max_positions_;
  int64_t rows_ = 0;                          // that there is room for
  std::vector<AlignedBuffer> keys_, values_;  // a layer each
  std::vector<int32_t> ids_;
};

// kResourceExhausted, with the numbers and what would fit, when the caches of `sequences` sequences
// of up to `positions` tokens take more than `available` bytes.
Status CheckCachesFit(const ModelConfig& config, kernels::DType dtype, int64_t sequences,
                      int64_t positions, uint64_t available);

}  // namespace tidegate::model
