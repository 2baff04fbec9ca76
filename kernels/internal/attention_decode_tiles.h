// Attention of a few new rows over a long cache: a tile is 128 keys × 16 columns, where a column is
// a pair of (row, query head) that shares the key/value head, so that the cache is read once for
// the whole group. Chunks of keys are independent and are merged in order.
//
// Only for files compiled with AVX-512 flags; internal linkage (see avx512_tiles.h).
#pragma once

#include "kernels/internal/attention_forward_tiles.h"

namespace tidegate::kernels {
namespace {

constexpr int64_t kColumns = 16;
constexpr int64_t kChunk = 128;

template <class P>
class DecodeTiles {
 public:
  using Elem = typename P::Elem;

  DecodeTiles(const Context& context, const AttentionRows& rows)
      : context_(context),
        rows_(rows),
        workspace_(*context.workspace),
        scope_(workspace_),
        group_(rows.heads / rows.kv_heads),
        keys_(rows.past + rows.m),
        words_(rows.head_dim / P::kPerWord),
        chunks_((keys_ + kChunk - 1) / kChunk),
        column_blocks_((rows.m * group_ + kColumns - 1) / kColumns),
        scale_(1.0f / __builtin_sqrtf(static_cast<float>(rows.head_dim))) {
    part_floats_ = kColumns * (2 + rows.head_dim);
    parts_ = Floats(rows.kv_heads * column_blocks_ * chunks_ * part_floats_);
    scratch_floats_ = kColumns * words_ + 2 * kChunk * kColumns + kChunk * rows.head_dim;
    scratch_ = Floats(scratch_floats_ * context.threads);
  }

  void Run() {
    const int64_t blocks = rows_.kv_heads * column_blocks_;
#pragma omp parallel num_threads(context_.threads)
    {
      float* scratch = scratch_ + omp_get_thread_num() * scratch_floats_;
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < blocks * chunks_; ++i) Chunk(i / chunks_, i % chunks_, scratch);
#pragma omp for schedule(static)
      for (int64_t i = 0; i < blocks; ++i) Merge(i);
    }
  }

 private:
  float* Floats(int64_t n) {
    return static_cast<float*>(workspace_.Allocate(static_cast<size_t>(n) * 4));
  }
  float* PartOf(int64_t block, int64_t chunk) const {
    return parts_ + (block * chunks_ + chunk) * part_floats_;
  }
  int64_t FirstColumn(int64_t block) const { return block % column_blocks_ * kColumns; }
  int64_t ColumnsOf(int64_t block) const {
    return Min(kColumns, rows_.m * group_ - FirstColumn(block));
  }
  // Element of q and out where the column's head starts.
  int64_t ColumnAt(int64_t block, int64_t c) const {
    const int64_t column = FirstColumn(block) + c;
    const int64_t head = block / column_blocks_ * group_ + column % group_;
    return (column / group_ * rows_.heads + head) * rows_.head_dim;
  }

  void TransposeQueries(int64_t block, uint32_t* qt) const {
    const int64_t columns = ColumnsOf(block);
    for (int64_t s = 0; s < words_; s += 16) {
      const int64_t n = Min(16, words_ - s);
      __m512i x[16];
#pragma GCC unroll 16
      for (int c = 0; c < 16; ++c) {
        const Elem* q = static_cast<const Elem*>(rows_.q);
        x[c] = c < columns ? _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << n) - 1),
                                                      q + ColumnAt(block, c) + s * P::kPerWord)
                           : _mm512_setzero_si512();
      }
      Transpose16(x);
      for (int64_t i = 0; i < n; ++i) _mm512_storeu_si512(qt + (s + i) * kColumns, x[i]);
    }
  }

  // s[key][column] becomes exp(scale · s − max), zero where hidden and up to `padded` keys.
  void Softmax(int64_t block, int64_t key, int64_t keys, int64_t padded, float* s,
               float* part) const {
    alignas(64) int32_t end[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) {
      end[c] = static_cast<int32_t>(rows_.past + (FirstColumn(block) + c) / group_);
    }
    const __m512i last = _mm512_load_si512(end);
    const __m512 hidden = _mm512_set1_ps(-__builtin_inff());
    __m512 max = _mm512_set1_ps(kNoScore);
    for (int64_t r = 0; r < keys; ++r) {
      const __mmask16 see =
          _mm512_cmple_epi32_mask(_mm512_set1_epi32(static_cast<int32_t>(key + r)), last);
      const __m512 x = _mm512_mask_loadu_ps(hidden, see, s + r * kColumns);
      _mm512_storeu_ps(s + r * kColumns, x);
      max = _mm512_max_ps(max, x);
    }
    const __m512 scale = _mm512_set1_ps(scale_ * kLog2E);
    const __m512 shift = _mm512_mul_ps(max, scale);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t r = 0; r < keys; ++r) {
      const __m512 p = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(s + r * kColumns), scale, shift));
      _mm512_storeu_ps(s + r * kColumns, p);
      sum = _mm512_add_ps(sum, p);
    }
    for (int64_t r = keys; r < padded; ++r) {
      _mm512_storeu_ps(s + r * kColumns, _mm512_setzero_ps());
    }
    _mm512_storeu_ps(part, max);
    _mm512_storeu_ps(part + kColumns, sum);
  }

  void Chunk(int64_t block, int64_t chunk, float* scratch) const {
    const int64_t key = chunk * kChunk, keys = Min(kChunk, keys_ - key);
    const int64_t stride = rows_.kv_heads * rows_.head_dim;
    const int64_t at = key * stride + block / column_blocks_ * rows_.head_dim;
    uint32_t* qt = reinterpret_cast<uint32_t*>(scratch);
    float* s = scratch + kColumns * words_;
    uint32_t* p = reinterpret_cast<uint32_t*>(s + kChunk * kColumns);
    uint32_t* vi = p + kChunk * kColumns;
    float* part = PartOf(block, chunk);
    TransposeQueries(block, qt);
    const AMatrix k = {static_cast<const Elem*>(rows_.k) + at,
                       stride * static_cast<int64_t>(sizeof(Elem))};
    Product<P, Init::kZero>(keys, kColumns, words_, k, {qt, kColumns}, {s, kColumns, nullptr});
    const int64_t step = 16 * P::kPerWord;
    const int64_t padded = (keys + step - 1) / step * step;
    Softmax(block, key, keys, padded, s, part);
    const int64_t p_words = kChunk / P::kPerWord;
    for (int64_t w = 0; w < padded / P::kPerWord; w += 16) {
      __m512i x[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) x[i] = P::LoadColumns(s, w + i);
      Transpose16(x);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(p + i * p_words + w, x[i]);
    }
    const int64_t steps = (keys + P::kPerWord - 1) / P::kPerWord;
    const Elem* v = static_cast<const Elem*>(rows_.v) + at;
    BMatrix values = {v, stride};
    if constexpr (!P::kInPlace) {
      InterleaveRows<P>({v, stride, keys}, steps, rows_.head_dim, vi);
      values = {vi, rows_.head_dim};
    }
    Product<P, Init::kZero>(ColumnsOf(block), rows_.head_dim, steps, {p, p_words * 4}, values,
                            {part + 2 * kColumns, rows_.head_dim, nullptr});
  }

  void Merge(int64_t block) const {
    const __m512 scale = _mm512_set1_ps(scale_ * kLog2E);
    __m512 max = _mm512_set1_ps(kNoScore), sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < chunks_; ++i) {
      max = _mm512_max_ps(max, _mm512_loadu_ps(PartOf(block, i)));
    }
    for (int64_t i = 0; i < chunks_; ++i) {
      float* part = PartOf(block, i);
      const __m512 grown = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(part), max), scale);
      const __m512 factor = Exp2(grown);
      sum = _mm512_fmadd_ps(factor, _mm512_loadu_ps(part + kColumns), sum);
      _mm512_storeu_ps(part, factor);
    }
    alignas(64) float inverse[kColumns];
    _mm512_store_ps(inverse, _mm512_div_ps(_mm512_set1_ps(1.0f), sum));
    for (int64_t c = 0; c < ColumnsOf(block); ++c) {
      for (int64_t d = 0; d < rows_.head_dim; d += 16) {
        __m512 o = _mm512_setzero_ps();
        for (int64_t i = 0; i < chunks_; ++i) {
          const float* part = PartOf(block, i);
          o = _mm512_fmadd_ps(_mm512_set1_ps(part[c]),
                              _mm512_loadu_ps(part + 2 * kColumns + c * rows_.head_dim + d), o);
        }
        P::Store16(static_cast<Elem*>(rows_.out) + ColumnAt(block, c) + d,
                   _mm512_mul_ps(o, _mm512_set1_ps(inverse[c])));
      }
    }
  }

  const Context& context_;
  const AttentionRows& rows_;
  Workspace& workspace_;
  Workspace::Scope scope_;
  const int64_t group_, keys_, words_, chunks_;
  const int64_t column_blocks_;  // a key/value head's
  const float scale_;
  int64_t part_floats_;
  float* parts_;  // [kv head][column block][chunk] of max, sum [16], O [16][head_dim]
  int64_t scratch_floats_;
  float* scratch_;
};

}  // namespace
}  // namespace tidegate::kernels
