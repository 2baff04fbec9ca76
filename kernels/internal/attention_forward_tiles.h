// Forward attention by tiles of 64 keys × 64 queries, transposed: keys are rows and queries are
// columns, so that maximum, sum and rescaling are vertical vector operations.
//
// Only for files compiled with AVX-512 flags; internal linkage (see avx512_tiles.h).
#pragma once

#include <omp.h>

#include "kernels/internal/attention_plan.h"
#include "kernels/internal/attention_policies.h"

namespace tidegate::kernels {
namespace {

constexpr int64_t kGroupBlocks = 4;  // key blocks between two updates of the running maximum
constexpr int64_t kGroup = kGroupBlocks * kTile;
constexpr float kNoScore = -1e38f;  // a running maximum before the first key; finite, so that
                                    // kNoScore − kNoScore is 0 and not NaN

// Which keys the queries of one block see, for masks: key >= begin[q] and key <= end[q].
struct Visibility {
  alignas(64) int32_t begin[kTile];
  alignas(64) int32_t end[kTile];
  int64_t unmasked_from;  // whole key blocks inside [unmasked_from, unmasked_to] need no mask
  int64_t unmasked_to;
};

// Columns past the last row copy it; nobody reads them.
inline void FindVisibility(const int32_t* segment_start, int64_t past, int64_t first, int64_t rows,
                           Visibility* seen) {
  for (int64_t c = 0; c < kTile; ++c) {
    const int64_t i = first + Min(c, rows - 1);
    seen->begin[c] = segment_start ? segment_start[i] : 0;
    seen->end[c] = static_cast<int32_t>(past + i);
  }
  seen->unmasked_from = seen->begin[rows - 1];
  seen->unmasked_to = past + first;
}

inline bool NeedsMask(const Visibility& seen, int64_t key) {
  return key < seen.unmasked_from || key + kTile - 1 > seen.unmasked_to;
}

// s[key][q] = -inf where q does not see it, for one block of keys from `key`.
inline void MaskBlock(const Visibility& seen, int64_t key, float* s) {
  const __m512 hidden = _mm512_set1_ps(-__builtin_inff());
  for (int64_t v = 0; v < 4; ++v) {
    const __m512i begin = _mm512_load_si512(seen.begin + 16 * v);
    const __m512i end = _mm512_load_si512(seen.end + 16 * v);
    for (int64_t r = 0; r < kTile; ++r) {
      const __m512i j = _mm512_set1_epi32(static_cast<int32_t>(key + r));
      const __mmask16 see = _mm512_cmple_epi32_mask(begin, j) & _mm512_cmple_epi32_mask(j, end);
      float* at = s + r * kTile + 16 * v;
      _mm512_storeu_ps(at, _mm512_mask_loadu_ps(hidden, see, at));
    }
  }
}

struct ForwardScratch {
  uint32_t* qt;  // Qᵀ as B operand: [words][64]
  float* s;      // scores: [kGroup][64]
  uint32_t* p;   // probabilities as B operand; s itself where that is one
  float* o;      // Oᵀ: [head_dim][64]
};

struct RunningSoftmax {
  alignas(64) float max[kTile];
  alignas(64) float sum[kTile];
  alignas(64) float factor[kTile];  // by which what was summed before shrinks
};

// One group of keys: p becomes exp(scale · s − new max) as a B operand; max, sum and factor are
// brought up to date. p may be s.
template <class P>
inline void UpdateSoftmax(int64_t keys, float log2_scale, const float* s, uint32_t* p,
                          RunningSoftmax* soft) {
  const __m512 scale = _mm512_set1_ps(log2_scale);
  __m512 max[4], sum[4], shift[4];
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) max[v] = _mm512_load_ps(soft->max + 16 * v);
  for (int64_t r = 0; r < keys; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      max[v] = _mm512_max_ps(max[v], _mm512_loadu_ps(s + r * kTile + 16 * v));
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    const __m512 before = _mm512_load_ps(soft->max + 16 * v);
    const __m512 grown = _mm512_mul_ps(_mm512_sub_ps(before, max[v]), scale);
    const __m512 factor = Exp2(grown);
    _mm512_store_ps(soft->factor + 16 * v, factor);
    _mm512_store_ps(soft->max + 16 * v, max[v]);
    sum[v] = _mm512_mul_ps(_mm512_load_ps(soft->sum + 16 * v), factor);
    shift[v] = _mm512_mul_ps(max[v], scale);
  }
  for (int64_t r = 0; r < keys; r += 2) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const float* at = s + r * kTile + 16 * v;
      const __m512 even = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(at), scale, shift[v]));
      const __m512 odd = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(at + kTile), scale, shift[v]));
      sum[v] = _mm512_add_ps(sum[v], _mm512_add_ps(even, odd));
      P::StoreB(p, r, 16 * v, even, odd);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) _mm512_store_ps(soft->sum + 16 * v, sum[v]);
}

template <class P, class Products = VectorProducts>
class ForwardTiles {
 public:
  using Elem = typename P::Elem;

  ForwardTiles(const Context& context, const AttentionRows& rows)
      : context_(context),
        rows_(rows),
        workspace_(*context.workspace),
        scope_(workspace_),
        plan_(PlanAttention(workspace_, rows)),
        words_(rows.head_dim / P::kPerWord),
        groups_((plan_.key_blocks + kGroupBlocks - 1) / kGroupBlocks),
        scale_(1.0f / __builtin_sqrtf(static_cast<float>(rows.head_dim))) {
    const int64_t group_words = rows.head_dim * kGroup / P::kPerWord;
    vt_ = Words(rows.kv_heads * groups_ * group_words);
    if constexpr (Products::kWholeTiles) {
      last_keys_ = reinterpret_cast<Elem*>(Words(rows.kv_heads * kTile * words_));
    }
    scratch_words_ = words_ * kTile + 2 * kGroup * kTile + rows.head_dim * kTile;
    scratch_ = Words(scratch_words_ * context.threads);
  }

  void Run() {
    TransposeValues();
    if constexpr (Products::kWholeTiles) CopyLastKeys();
    const int64_t items = plan_.query_blocks * rows_.heads;
#pragma omp parallel num_threads(context_.threads)
    {
      const ForwardScratch scratch = ScratchOf(omp_get_thread_num());
      const typename Products::Scope products;
#pragma omp for schedule(dynamic)
      for (int64_t item = 0; item < items; ++item) {
        QueryBlock(item % rows_.heads, plan_.heaviest_first[item / rows_.heads], scratch);
      }
    }
  }

 private:
  uint32_t* Words(int64_t n) {
    return static_cast<uint32_t*>(workspace_.Allocate(static_cast<size_t>(n) * 4));
  }

  ForwardScratch ScratchOf(int thread) const {
    uint32_t* base = scratch_ + thread * scratch_words_;
    ForwardScratch scratch;
    scratch.qt = base;
    base += words_ * kTile;
    scratch.s = reinterpret_cast<float*>(base);
    if constexpr (!P::kInPlace) base += kGroup * kTile;
    scratch.p = base;
    base += kGroup * kTile;
    scratch.o = reinterpret_cast<float*>(base);
    return scratch;
  }

  // Vᵀ as A operand, [kv head][group][head_dim][256 keys], zero past the last key.
  void TransposeValues() {
    const int64_t keys = rows_.past + rows_.m;
    const int64_t stride = rows_.kv_heads * rows_.head_dim;
#pragma omp parallel for num_threads(context_.threads) schedule(static)
    for (int64_t item = 0; item < rows_.kv_heads * groups_; ++item) {
      const int64_t key = item % groups_ * kGroup;
      const Elem* v =
          static_cast<const Elem*>(rows_.v) + key * stride + item / groups_ * rows_.head_dim;
      TransposeRows<P>({v, stride, Min(kGroup, keys - key)}, kGroup / P::kPerWord, rows_.head_dim,
                       vt_ + item * rows_.head_dim * kGroup / P::kPerWord, kGroup / P::kPerWord);
    }
  }

  int64_t KeyStride() const { return rows_.kv_heads * rows_.head_dim; }
  const Elem* KeysAt(int64_t kv, int64_t key) const {
    return static_cast<const Elem*>(rows_.k) + key * KeyStride() + kv * rows_.head_dim;
  }

  // The last block of each kv head's keys, filled up with zeros.
  void CopyLastKeys() {
    const int64_t key = (plan_.key_blocks - 1) * kTile;
    for (int64_t kv = 0; kv < rows_.kv_heads; ++kv) {
      CopyRows<P>({KeysAt(kv, key), KeyStride(), rows_.past + rows_.m - key}, kTile, rows_.head_dim,
                  last_keys_ + kv * kTile * rows_.head_dim);
    }
  }

  // Sᵀ of key blocks begin … end-1.
  void Scores(int64_t kv, int64_t begin, int64_t end, const ForwardScratch& scratch) const {
    const int64_t stride = KeyStride() * static_cast<int64_t>(sizeof(Elem));
    const int64_t keys = rows_.past + rows_.m;
    if constexpr (Products::kWholeTiles) {
      for (int64_t b = begin; b < end; ++b) {
        AMatrix k = {KeysAt(kv, b * kTile), stride};
        if ((b + 1) * kTile > keys) {
          k = {last_keys_ + kv * kTile * rows_.head_dim,
               rows_.head_dim * static_cast<int64_t>(sizeof(Elem))};
        }
        Products::template Run<P, Init::kZero>(
            kTile, kTile, words_, k, {scratch.qt, kTile},
            {scratch.s + (b - begin) * kTile * kTile, kTile, nullptr});
      }
    } else {
      Products::template Run<P, Init::kZero>(Min(end * kTile, keys) - begin * kTile, kTile, words_,
                                             {KeysAt(kv, begin * kTile), stride},
                                             {scratch.qt, kTile}, {scratch.s, kTile, nullptr});
    }
  }

  void QueryBlock(int64_t head, int64_t block, const ForwardScratch& scratch) const {
    const int64_t first = block * kTile;
    const int64_t rows = Min(kTile, rows_.m - first);
    const int64_t stride = rows_.heads * rows_.head_dim;
    const int64_t at = first * stride + head * rows_.head_dim;
    TransposeWords<P>({static_cast<const Elem*>(rows_.q) + at, stride, rows}, words_, kTile,
                      scratch.qt);
    Visibility seen;
    FindVisibility(rows_.segment_start, rows_.past, first, rows, &seen);
    RunningSoftmax soft;
    for (int64_t c = 0; c < kTile; ++c) {
      soft.max[c] = kNoScore;
      soft.sum[c] = 0;
    }
    const int64_t last = plan_.last_key_block[block];
    bool started = false;
    for (int64_t b = plan_.first_key_block[block]; b <= last;) {
      const int64_t end = Min(last + 1, (b / kGroupBlocks + 1) * kGroupBlocks);
      KeyGroup(head, b, end, seen, started, scratch, &soft);
      started = true;
      b = end;
    }
    Finish(head, first, rows, scratch.o, &soft, static_cast<Elem*>(rows_.out) + at);
  }

  // Key blocks begin … end-1 of one group.
  void KeyGroup(int64_t head, int64_t begin, int64_t end, const Visibility& seen, bool started,
                const ForwardScratch& scratch, RunningSoftmax* soft) const {
    const int64_t kv = head / (rows_.heads / rows_.kv_heads);
    const int64_t key = begin * kTile, keys = (end - begin) * kTile;
    Scores(kv, begin, end, scratch);
    for (int64_t b = begin; b < end; ++b) {
      if (NeedsMask(seen, b * kTile))
        MaskBlock(seen, b * kTile, scratch.s + (b - begin) * kTile * kTile);
    }
    UpdateSoftmax<P>(keys, scale_ * kLog2E, scratch.s, scratch.p, soft);
    const BMatrix p = {scratch.p, kTile};
    const int64_t group = begin / kGroupBlocks;
    const int64_t row_bytes = kGroup * static_cast<int64_t>(sizeof(Elem));
    const char* vt = reinterpret_cast<const char*>(vt_ + (kv * groups_ + group) * rows_.head_dim *
                                                             kGroup / P::kPerWord) +
                     (key - group * kGroup) * static_cast<int64_t>(sizeof(Elem));
    const CMatrix o = {scratch.o, kTile, soft->factor};
    const int64_t steps = keys / P::kPerWord;
    if (started) {
      Products::template Run<P, Init::kScale>(rows_.head_dim, kTile, steps, {vt, row_bytes}, p, o);
    } else {
      Products::template Run<P, Init::kZero>(rows_.head_dim, kTile, steps, {vt, row_bytes}, p, o);
    }
  }

  void Finish(int64_t head, int64_t first, int64_t rows, const float* o, RunningSoftmax* soft,
              Elem* out) const {
    for (int64_t v = 0; v < kTile; v += 16) {
      const __m512 sum = _mm512_load_ps(soft->sum + v);
      _mm512_store_ps(soft->factor + v, _mm512_div_ps(_mm512_set1_ps(1.0f), sum));
      if (!rows_.lse || v >= rows) continue;
      const __m512 lse =
          _mm512_fmadd_ps(_mm512_load_ps(soft->max + v), _mm512_set1_ps(scale_), Log(sum));
      const int64_t n = Min(16, rows - v);
      _mm512_mask_storeu_ps(rows_.lse + head * rows_.m + first + v,
                            static_cast<__mmask16>((1u << n) - 1), lse);
    }
    StoreTransposed<P>(o, soft->factor, rows, rows_.head_dim, out, rows_.heads * rows_.head_dim);
  }

  const Context& context_;
  const AttentionRows& rows_;
  Workspace& workspace_;
  Workspace::Scope scope_;
  const AttentionPlan plan_;
  const int64_t words_;   // a row of one head, in words
  const int64_t groups_;  // of 256 keys
  const float scale_;
  uint32_t* vt_;
  Elem* last_keys_ = nullptr;  // [kv_heads][64][head_dim], where tiles must be whole
  uint32_t* scratch_;
  int64_t scratch_words_;
};

}  // namespace
}  // namespace tidegate::kernels
