// Backward attention by tiles of 64 keys × 64 queries, transposed as in forward. Key blocks are the
// outer loop, so that dK and dV stay in the first cache; dQᵀ is summed in a buffer per piece of the
// key blocks, and the pieces' buffers are added in order: no atomics, the same bits always.
//
// Only for files compiled with AVX-512 flags; internal linkage (see avx512_tiles.h).
#pragma once

#include "kernels/internal/attention_forward_tiles.h"

namespace tidegate::kernels {
namespace {

// What a tile needs to know of one query head's 64 queries. Pointers into shared scratch.
struct QueryTile {
  uint32_t* qt;   // Qᵀ   as B operand, [words][64]
  uint32_t* dot;  // dOᵀ  likewise
  uint32_t* qi;   // Q    as B operand reduced over queries, [64 / kPerWord][head_dim]
  uint32_t* doi;  // dO   likewise
  float* lse2;    // [64] log2 of the sum of exp; +inf past the last row, which makes p zero there
  float* delta;   // [64] dO·O
};

template <class P>
struct BackwardScratch {
  float* s;                   // scores, [64][64]
  float* dp;                  // [64][64]
  typename P::Elem* p_rows;   // Pᵀ  as A operand (s itself where that is one)
  typename P::Elem* ds_rows;  // dSᵀ as A operand (dp itself …)
  uint32_t* ds_columns;       // dSᵀ as B operand (dp itself …)
  float* dqt;                 // [head_dim][64], for the last sum
};

// p = 2^(scale·s − lse2), ds = p · (dp − delta), both rounded to the operand types.
template <class P>
inline void TileGradient(float log2_scale, const QueryTile& query,
                         const BackwardScratch<P>& scratch) {
  const __m512 scale = _mm512_set1_ps(log2_scale);
  for (int64_t column = 0; column < kTile; column += 16) {
    const __m512 lse2 = _mm512_loadu_ps(query.lse2 + column);
    const __m512 delta = _mm512_loadu_ps(query.delta + column);
#pragma GCC unroll 2
    for (int64_t r = 0; r < kTile; r += 2) {
      const float* s = scratch.s + r * kTile + column;
      const float* dp = scratch.dp + r * kTile + column;
      const __m512 even = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(s), scale, lse2));
      const __m512 odd = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(s + kTile), scale, lse2));
      const __m512 ds_even = _mm512_mul_ps(even, _mm512_sub_ps(_mm512_loadu_ps(dp), delta));
      const __m512 ds_odd = _mm512_mul_ps(odd, _mm512_sub_ps(_mm512_loadu_ps(dp + kTile), delta));
      P::StoreA(scratch.p_rows, r, column, even, odd);
      P::StoreAB(scratch.ds_rows, scratch.ds_columns, r, column, ds_even, ds_odd);
    }
  }
}

template <class P, class Products = VectorProducts>
class BackwardTiles {
 public:
  using Elem = typename P::Elem;

  BackwardTiles(const Context& context, const AttentionBackwardArgs& args)
      : context_(context),
        args_(args),
        shape_(args.shape),
        workspace_(*context.workspace),
        scope_(workspace_),
        plan_(PlanAttention(workspace_,
                            {shape_.t, 0, shape_.heads, shape_.kv_heads, shape_.head_dim,
                             shape_.segment_start, nullptr, nullptr, nullptr, nullptr, nullptr})),
        words_(shape_.head_dim / P::kPerWord),
        tile_words_(words_ * kTile),
        scale_(1.0f / __builtin_sqrtf(static_cast<float>(shape_.head_dim))) {
    query_words_ = 4 * tile_words_ + 2 * kTile;
    queries_ = Words(shape_.heads * plan_.query_blocks * query_words_);
    kt_ = Words(shape_.kv_heads * plan_.key_blocks * tile_words_);
    visible_ = static_cast<Visibility*>(
        workspace_.Allocate(static_cast<size_t>(plan_.query_blocks) * sizeof(Visibility)));
    if constexpr (Products::kWholeTiles) {
      last_k_ = reinterpret_cast<Elem*>(Words(shape_.kv_heads * tile_words_));
      last_v_ = reinterpret_cast<Elem*>(Words(shape_.kv_heads * tile_words_));
    }
    head_gradient_ = plan_.key_blocks * kTile * shape_.head_dim;
    dk_ = reinterpret_cast<float*>(Words(shape_.heads * head_gradient_));
    dv_ = reinterpret_cast<float*>(Words(shape_.heads * head_gradient_));
    dq_tiles_ = 0;
    for (int64_t i = 0; i < plan_.pieces; ++i) {
      piece_at_[i] = dq_tiles_;
      dq_tiles_ += LastQueryBlock(i) - plan_.cut_at[i] + 1;
    }
    dq_ = reinterpret_cast<float*>(Words(shape_.heads * dq_tiles_ * DqTile()));
    scratch_words_ = 5 * kTile * kTile + shape_.head_dim * kTile;
    scratch_ = Words(scratch_words_ * context.threads);
  }

  void Run() {
    const int64_t query_tiles = shape_.heads * plan_.query_blocks;
    const int64_t key_tiles = shape_.kv_heads * plan_.key_blocks;
    for (int64_t b = 0; b < plan_.query_blocks; ++b) {
      FindVisibility(shape_.segment_start, 0, b * kTile, Min(kTile, shape_.t - b * kTile),
                     visible_ + b);
    }
#pragma omp parallel num_threads(context_.threads)
    {
      const BackwardScratch<P> scratch = ScratchOf(omp_get_thread_num());
      const typename Products::Scope products;
#pragma omp for schedule(static) nowait
      for (int64_t i = 0; i < key_tiles; ++i)
        PrepareKeys(i / plan_.key_blocks, i % plan_.key_blocks);
#pragma omp for schedule(static)
      for (int64_t i = 0; i < query_tiles; ++i) {
        PrepareQueries(i / plan_.query_blocks, i % plan_.query_blocks);
      }
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < shape_.heads * plan_.pieces; ++i) {
        Piece(i / plan_.pieces, i % plan_.pieces, scratch);
      }
#pragma omp for schedule(static) nowait
      for (int64_t i = 0; i < query_tiles; ++i) {
        FinishQueries(i / plan_.query_blocks, i % plan_.query_blocks, scratch);
      }
#pragma omp for schedule(static)
      for (int64_t i = 0; i < key_tiles; ++i)
        FinishKeys(i / plan_.key_blocks, i % plan_.key_blocks);
    }
  }

 private:
  uint32_t* Words(int64_t n) {
    return static_cast<uint32_t*>(workspace_.Allocate(static_cast<size_t>(n) * 4));
  }
  int64_t DqTile() const { return shape_.head_dim * kTile; }
  int64_t LastQueryBlock(int64_t piece) const {
    return Max(plan_.cut_at[piece], plan_.last_query_block[Max(0, plan_.cut_at[piece + 1] - 1)]);
  }
  int64_t QueryStride() const { return shape_.heads * shape_.head_dim; }
  int64_t KeyStride() const { return shape_.kv_heads * shape_.head_dim; }

  BackwardScratch<P> ScratchOf(int thread) const {
    float* base = reinterpret_cast<float*>(scratch_ + thread * scratch_words_);
    BackwardScratch<P> scratch;
    scratch.s = base;
    scratch.dp = base + kTile * kTile;
    void* rows = P::kInPlace ? scratch.s : base + 2 * kTile * kTile;
    scratch.p_rows = static_cast<Elem*>(rows);
    rows = P::kInPlace ? scratch.dp : base + 3 * kTile * kTile;
    scratch.ds_rows = static_cast<Elem*>(rows);
    rows = P::kInPlace ? scratch.dp : base + 4 * kTile * kTile;
    scratch.ds_columns = static_cast<uint32_t*>(rows);
    scratch.dqt = base + 5 * kTile * kTile;
    return scratch;
  }

  QueryTile QueriesOf(int64_t head, int64_t block) const {
    uint32_t* base = queries_ + (head * plan_.query_blocks + block) * query_words_;
    float* rows = reinterpret_cast<float*>(base + 4 * tile_words_);
    return {base, base + tile_words_, base + 2 * tile_words_, base + 3 * tile_words_,
            rows, rows + kTile};
  }

  void PrepareKeys(int64_t kv, int64_t block) const {
    const int64_t at = block * kTile * KeyStride() + kv * shape_.head_dim;
    const HeadRows<P> k = {static_cast<const Elem*>(args_.k) + at, KeyStride(),
                           Min(kTile, shape_.t - block * kTile)};
    TransposeRows<P>(k, kTile / P::kPerWord, shape_.head_dim,
                     kt_ + (kv * plan_.key_blocks + block) * tile_words_, kTile / P::kPerWord);
    if (Products::kWholeTiles && block == plan_.key_blocks - 1) {
      const HeadRows<P> v = {static_cast<const Elem*>(args_.v) + at, KeyStride(), k.rows};
      CopyRows<P>(k, kTile, shape_.head_dim, last_k_ + kv * kTile * shape_.head_dim);
      CopyRows<P>(v, kTile, shape_.head_dim, last_v_ + kv * kTile * shape_.head_dim);
    }
  }

  void PrepareQueries(int64_t head, int64_t block) const {
    const int64_t first = block * kTile, rows = Min(kTile, shape_.t - first);
    const int64_t at = first * QueryStride() + head * shape_.head_dim;
    const HeadRows<P> q = {static_cast<const Elem*>(args_.q) + at, QueryStride(), rows};
    const HeadRows<P> dout = {static_cast<const Elem*>(args_.dout) + at, QueryStride(), rows};
    const Elem* out = static_cast<const Elem*>(args_.out) + at;
    const QueryTile tile = QueriesOf(head, block);
    TransposeWords<P>(q, words_, kTile, tile.qt);
    TransposeWords<P>(dout, words_, kTile, tile.dot);
    InterleaveRows<P>(q, kTile / P::kPerWord, shape_.head_dim, tile.qi);
    InterleaveRows<P>(dout, kTile / P::kPerWord, shape_.head_dim, tile.doi);
    const float* lse = static_cast<const float*>(args_.lse) + head * shape_.t + first;
    for (int64_t c = 0; c < kTile; ++c) {
      tile.lse2[c] = c < rows ? lse[c] * kLog2E : __builtin_inff();
      __m512 sum = _mm512_setzero_ps();
      for (int64_t d = 0; c < rows && d < shape_.head_dim; d += 16) {
        sum = _mm512_fmadd_ps(P::Load16(dout.data + c * QueryStride() + d),
                              P::Load16(out + c * QueryStride() + d), sum);
      }
      tile.delta[c] = _mm512_reduce_add_ps(sum);
    }
  }

  void Piece(int64_t head, int64_t piece, const BackwardScratch<P>& scratch) const {
    const int64_t begin = plan_.cut_at[piece], end = plan_.cut_at[piece + 1];
    float* dq = dq_ + (head * dq_tiles_ + piece_at_[piece]) * DqTile();
    __builtin_memset(dq, 0,
                     static_cast<size_t>((LastQueryBlock(piece) - begin + 1) * DqTile()) * 4);
    for (int64_t key_block = begin; key_block < end; ++key_block) {
      for (int64_t b = key_block; b <= plan_.last_query_block[key_block]; ++b) {
        Tile(head, key_block, b, dq + (b - begin) * DqTile(), scratch);
      }
    }
  }

  void Tile(int64_t head, int64_t key_block, int64_t query_block, float* dq,
            const BackwardScratch<P>& scratch) const {
    const int64_t kv = head / (shape_.heads / shape_.kv_heads);
    const int64_t key = key_block * kTile;
    int64_t keys = Min(kTile, shape_.t - key);
    const int64_t at = key * KeyStride() + kv * shape_.head_dim;
    const int64_t row_bytes = KeyStride() * static_cast<int64_t>(sizeof(Elem));
    AMatrix k_rows = {static_cast<const Elem*>(args_.k) + at, row_bytes};
    AMatrix v_rows = {static_cast<const Elem*>(args_.v) + at, row_bytes};
    if (Products::kWholeTiles && keys < kTile) {
      const int64_t last = kv * kTile * shape_.head_dim;
      k_rows = {last_k_ + last, shape_.head_dim * static_cast<int64_t>(sizeof(Elem))};
      v_rows = {last_v_ + last, k_rows.stride};
      keys = kTile;
    }
    const int64_t steps = kTile / P::kPerWord;
    const QueryTile query = QueriesOf(head, query_block);
    Products::template Run<P, Init::kZero>(keys, kTile, words_, k_rows, {query.qt, kTile},
                                           {scratch.s, kTile, nullptr});
    Products::template Run<P, Init::kZero>(keys, kTile, words_, v_rows, {query.dot, kTile},
                                           {scratch.dp, kTile, nullptr});
    if (NeedsMask(visible_[query_block], key)) {
      MaskBlock(visible_[query_block], key, scratch.s);
      // Keys past the last have no dP; their p is zero and must stay so.
      __builtin_memset(scratch.dp + keys * kTile, 0,
                       static_cast<size_t>((kTile - keys) * kTile) * 4);
    }
    TileGradient<P>(scale_ * kLog2E, query, scratch);
    const AMatrix p = {scratch.p_rows, kTile * static_cast<int64_t>(sizeof(Elem))};
    const AMatrix ds = {scratch.ds_rows, kTile * static_cast<int64_t>(sizeof(Elem))};
    const BMatrix dout = {query.doi, shape_.head_dim}, q = {query.qi, shape_.head_dim};
    const int64_t out = head * head_gradient_ + key * shape_.head_dim;
    const CMatrix dv = {dv_ + out, shape_.head_dim, nullptr};
    const CMatrix dk = {dk_ + out, shape_.head_dim, nullptr};
    if (query_block == key_block) {
      Products::template Run<P, Init::kZero>(kTile, shape_.head_dim, steps, p, dout, dv);
      Products::template Run<P, Init::kZero>(kTile, shape_.head_dim, steps, ds, q, dk);
    } else {
      Products::template Run<P, Init::kAdd>(kTile, shape_.head_dim, steps, p, dout, dv);
      Products::template Run<P, Init::kAdd>(kTile, shape_.head_dim, steps, ds, q, dk);
    }
    const uint32_t* kt = kt_ + (kv * plan_.key_blocks + key_block) * tile_words_;
    Products::template Run<P, Init::kAdd>(shape_.head_dim, kTile, steps,
                                          {kt, kTile * static_cast<int64_t>(sizeof(Elem))},
                                          {scratch.ds_columns, kTile}, {dq, kTile, nullptr});
  }

  void FinishQueries(int64_t head, int64_t block, const BackwardScratch<P>& scratch) const {
    const int64_t first = block * kTile;
    const float* sum = nullptr;
    for (int64_t piece = 0; piece < plan_.pieces; ++piece) {
      if (block < plan_.cut_at[piece] || block > LastQueryBlock(piece)) continue;
      const float* part =
          dq_ + (head * dq_tiles_ + piece_at_[piece] + block - plan_.cut_at[piece]) * DqTile();
      if (sum) {
        for (int64_t i = 0; i < DqTile(); i += 16) {
          _mm512_storeu_ps(scratch.dqt + i,
                           _mm512_add_ps(_mm512_loadu_ps(sum + i), _mm512_loadu_ps(part + i)));
        }
        sum = scratch.dqt;
      } else {
        sum = part;
      }
    }
    float factor[kTile];
    for (float& f : factor) f = scale_;
    StoreTransposed<P>(
        sum, factor, Min(kTile, shape_.t - first), shape_.head_dim,
        static_cast<Elem*>(args_.dq) + first * QueryStride() + head * shape_.head_dim,
        QueryStride());
  }

  // Sums the group's query heads in their order.
  void FinishKeys(int64_t kv, int64_t block) const {
    const int64_t group = shape_.heads / shape_.kv_heads;
    const __m512 scale = _mm512_set1_ps(scale_);
    for (int64_t r = block * kTile; r < Min(shape_.t, (block + 1) * kTile); ++r) {
      for (int64_t d = 0; d < shape_.head_dim; d += 16) {
        const int64_t from = kv * group * head_gradient_ + r * shape_.head_dim + d;
        __m512 dk = _mm512_loadu_ps(dk_ + from), dv = _mm512_loadu_ps(dv_ + from);
        for (int64_t h = 1; h < group; ++h) {
          dk = _mm512_add_ps(dk, _mm512_loadu_ps(dk_ + from + h * head_gradient_));
          dv = _mm512_add_ps(dv, _mm512_loadu_ps(dv_ + from + h * head_gradient_));
        }
        const int64_t to = r * KeyStride() + kv * shape_.head_dim + d;
        P::Store16(static_cast<Elem*>(args_.dk) + to, _mm512_mul_ps(dk, scale));
        P::Store16(static_cast<Elem*>(args_.dv) + to, dv);
      }
    }
  }

  const Context& context_;
  const AttentionBackwardArgs& args_;
  const AttentionShape& shape_;
  Workspace& workspace_;
  Workspace::Scope scope_;
  const AttentionPlan plan_;
  const int64_t words_;       // a row of one head, in words
  const int64_t tile_words_;  // 64 of them
  const float scale_;
  int64_t query_words_;     // a QueryTile
  uint32_t* queries_;       // [heads][query_blocks] QueryTiles
  Elem* last_k_ = nullptr;  // [kv_heads][64][head_dim], where tiles must be whole
  Elem* last_v_ = nullptr;
  uint32_t* kt_;         // Kᵀ as A operand, [kv head][key block][head_dim][64 keys]
  Visibility* visible_;  // [query_blocks]
  int64_t head_gradient_;
  float* dk_;  // [heads][64 · key_blocks][head_dim]
  float* dv_;
  int64_t piece_at_[4];  // in tiles
  int64_t dq_tiles_;     // of all pieces
  float* dq_;            // [heads][dq_tiles_][head_dim][64]
  uint32_t* scratch_;
  int64_t scratch_words_;
};

}  // namespace
}  // namespace tidegate::kernels
