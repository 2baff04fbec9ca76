// Attention in f32 for any head size, four queries at a time, with the vectors of the instruction
// set that the including file is compiled for. The tiles take over where AVX-512 is.
#pragma once

#include <omp.h>

#include "kernels/internal/attention_impl.h"
#include "kernels/internal/vec.h"

namespace tidegate::kernels {
namespace {

constexpr int kQueries = 4;
constexpr int64_t kColumnsPerItem = 64;

// Up to four neighbouring columns. Rows that do not exist repeat the last and are not
// stored.
struct QueryRows {
  const float* q[kQueries];
  int64_t begin[kQueries], end[kQueries];  // keys that the row sees
  int count;
  int64_t first, last;  // keys that any row sees, last exclusive
};

struct KeyRows {
  const float* data;  // key 0 of the head
  int64_t stride;
};

// s[i][j] = q_i · key_j for all keys that any row sees; rows of s are `width` apart and begin with
// key `first`.
TIDEGATE_INLINE void Scores(const QueryRows& rows, const float* const* q, KeyRows keys,
                            int64_t head_dim, int64_t width, float* s) {
  for (int64_t j = rows.first; j < rows.last; ++j) {
    const float* key = keys.data + j * keys.stride;
    F sums[kQueries] = {};
    ForVectors(0, head_dim, [&](int64_t d, int n) TIDEGATE_LAMBDA {
      const F k = Load(key + d, n);
      for (int i = 0; i < kQueries; ++i) sums[i] += k * Load(q[i] + d, n);
    });
    for (int i = 0; i < kQueries; ++i) s[i * width + j - rows.first] = Sum(sums[i]);
  }
}

// out_i = factor_i · sum of s[i][j] · value_j.
TIDEGATE_INLINE void WeightedSum(const QueryRows& rows, const float* s, int64_t width,
                                 KeyRows values, int64_t head_dim, const float* factor,
                                 float* const* out) {
  ForVectors(0, head_dim, [&](int64_t d, int n) TIDEGATE_LAMBDA {
    F sums[kQueries] = {};
    for (int64_t j = rows.first; j < rows.last; ++j) {
      const F v = Load(values.data + j * values.stride + d, n);
      for (int i = 0; i < kQueries; ++i) sums[i] += v * s[i * width + j - rows.first];
    }
    for (int i = 0; i < rows.count; ++i) Store(out[i] + d, sums[i] * factor[i], n);
  });
}

// sum_j += Σ_i s[i][j] · x_i, over dense rows of head_dim.
TIDEGATE_INLINE void AddOuter(const QueryRows& rows, const float* s, int64_t width,
                              const float* const* x, int64_t head_dim, float* sum) {
  for (int64_t j = rows.first; j < rows.last; ++j) {
    const float* weight = s + j - rows.first;
    float* to = sum + j * head_dim;
    ForVectors(0, head_dim, [&](int64_t d, int n) TIDEGATE_LAMBDA {
      F t = Load(to + d, n);
      for (int i = 0; i < rows.count; ++i) t += Load(x[i] + d, n) * weight[i * width];
      Store(to + d, t, n);
    });
  }
}

// s_j = exp(scale · s_j − shift) for keys that row i sees, 0 for the others; returns their sum.
TIDEGATE_INLINE float Exponentials(const QueryRows& rows, int i, float scale, float shift,
                                   float* s) {
  for (int64_t j = rows.first; j < rows.begin[i]; ++j) s[j - rows.first] = 0;
  for (int64_t j = rows.end[i]; j < rows.last; ++j) s[j - rows.first] = 0;
  float sum = 0;
  F sums = {};
  ForVectors(rows.begin[i] - rows.first, rows.end[i] - rows.first,
             [&](int64_t j, int n) TIDEGATE_LAMBDA {
               const F p = Exp(Load(s + j, n) * scale - shift);
               Store(s + j, p, n);
               if (n == kLanes) {
                 sums += p;
               } else {
                 for (int lane = 0; lane < n; ++lane) sum += s[j + lane];
               }
             });
  return sum + Sum(sums);
}

// Query heads head … head + group - 1 share their keys: column c is row c / group of head
// head + c % group. With group 1, columns are the rows of one head.
struct Columns {
  int64_t head, group;
  int64_t Row(int64_t c) const { return c / group; }
  int64_t Head(int64_t c) const { return head + c % group; }
};

inline QueryRows RowsAt(const AttentionRows& rows, const void* q, Columns columns, int64_t column) {
  QueryRows at = {};
  const int64_t left = rows.m * columns.group - column;
  at.count = static_cast<int>(left < kQueries ? left : kQueries);
  for (int i = 0; i < kQueries; ++i) {
    const int64_t c = column + (i < at.count ? i : at.count - 1);
    const int64_t r = columns.Row(c);
    at.q[i] = static_cast<const float*>(q) + (r * rows.heads + columns.Head(c)) * rows.head_dim;
    at.begin[i] = rows.segment_start ? rows.segment_start[r] : 0;
    at.end[i] = rows.past + r + 1;
  }
  at.first = at.begin[0];
  at.last = at.end[kQueries - 1];
  return at;
}

inline KeyRows KeysOf(const AttentionRows& rows, const void* keys, int64_t head) {
  const int64_t kv = head / (rows.heads / rows.kv_heads);
  return {static_cast<const float*>(keys) + kv * rows.head_dim, rows.kv_heads * rows.head_dim};
}

inline void AttendRows(const AttentionRows& args, Columns columns, int64_t column, float* s) {
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(args.head_dim));
  const QueryRows rows = RowsAt(args, args.q, columns, column);
  const int64_t width = args.past + args.m;
  Scores(rows, rows.q, KeysOf(args, args.k, columns.head), args.head_dim, width, s);
  float factor[kQueries];
  float* out[kQueries] = {};
  for (int i = 0; i < kQueries; ++i) {
    float* p = s + i * width;
    float max = p[rows.begin[i] - rows.first];
    for (int64_t j = rows.begin[i]; j < rows.end[i]; ++j) {
      max = p[j - rows.first] > max ? p[j - rows.first] : max;
    }
    const float sum = Exponentials(rows, i, scale, max * scale, p);
    factor[i] = 1.0f / sum;
    if (i >= rows.count) continue;
    const int64_t row = columns.Row(column + i), head = columns.Head(column + i);
    out[i] = static_cast<float*>(args.out) + (row * args.heads + head) * args.head_dim;
    if (args.lse) args.lse[head * args.m + row] = max * scale + __builtin_logf(sum);
  }
  WeightedSum(rows, s, width, KeysOf(args, args.v, columns.head), args.head_dim, factor, out);
}

inline void ForwardRows(const Context& context, const AttentionRows& args) {
  Workspace::Scope scope(*context.workspace);
  const int64_t width = kQueries * (args.past + args.m);
  float* scratch = static_cast<float*>(
      context.workspace->Allocate(static_cast<size_t>(width * context.threads) * sizeof(float)));
  const int64_t group = args.heads / args.kv_heads, columns = args.m * group;
  const int64_t blocks = (columns + kColumnsPerItem - 1) / kColumnsPerItem;
#pragma omp parallel for num_threads(context.threads) schedule(dynamic)
  for (int64_t item = 0; item < args.kv_heads * blocks; ++item) {
    // The last rows see the most keys: longest first.
    const int64_t first = (blocks - 1 - item / args.kv_heads) * kColumnsPerItem;
    const int64_t end = first + kColumnsPerItem < columns ? first + kColumnsPerItem : columns;
    const Columns shared = {item % args.kv_heads * group, group};
    for (int64_t column = first; column < end; column += kQueries) {
      AttendRows(args, shared, column, scratch + omp_get_thread_num() * width);
    }
  }
}

struct RowsBackward {
  const AttentionBackwardArgs& args;
  const AttentionRows rows;
  float* dk;  // [heads, t, head_dim]
  float* dv;
};

// Four rows of one head: their dq, and their parts of the head's dk and dv.
inline void BackwardAt(const RowsBackward& b, int64_t head, int64_t row, float* p, float* ds) {
  const int64_t t = b.rows.m, head_dim = b.rows.head_dim;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head_dim));
  const Columns one = {head, 1};
  const QueryRows rows = RowsAt(b.rows, b.args.q, one, row);
  const QueryRows dout = RowsAt(b.rows, b.args.dout, one, row);
  const QueryRows out = RowsAt(b.rows, b.args.out, one, row);
  Scores(rows, rows.q, KeysOf(b.rows, b.args.k, head), head_dim, t, p);
  Scores(rows, dout.q, KeysOf(b.rows, b.args.v, head), head_dim, t, ds);
  float factor[kQueries];
  float* dq[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    const int64_t r = row + (i < rows.count ? i : rows.count - 1);
    factor[i] = scale;
    dq[i] = static_cast<float*>(b.args.dq) + (r * b.rows.heads + head) * head_dim;
    const float lse = static_cast<const float*>(b.args.lse)[head * t + r];
    Exponentials(rows, i, scale, lse, p + i * t);
    F sums = {};
    ForVectors(0, head_dim, [&](int64_t d, int n) TIDEGATE_LAMBDA {
      sums += Load(dout.q[i] + d, n) * Load(out.q[i] + d, n);
    });
    const float delta = Sum(sums);
    ForVectors(i * t, i * t + rows.last - rows.first, [&](int64_t j, int n) TIDEGATE_LAMBDA {
      Store(ds + j, Load(p + j, n) * (Load(ds + j, n) - delta), n);
    });
  }
  WeightedSum(rows, ds, t, KeysOf(b.rows, b.args.k, head), head_dim, factor, dq);
  AddOuter(rows, ds, t, rows.q, head_dim, b.dk + head * t * head_dim);
  AddOuter(rows, p, t, dout.q, head_dim, b.dv + head * t * head_dim);
}

// out = factor · sum of the group's query heads, in their order.
inline void SumGroup(const AttentionRows& rows, int64_t row, const float* parts, float factor,
                     float* out) {
  const int64_t group = rows.heads / rows.kv_heads;
  for (int64_t kv = 0; kv < rows.kv_heads; ++kv) {
    ForVectors(0, rows.head_dim, [&](int64_t d, int n) TIDEGATE_LAMBDA {
      F sum = {};
      for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
        sum += Load(parts + (h * rows.m + row) * rows.head_dim + d, n);
      }
      Store(out + (row * rows.kv_heads + kv) * rows.head_dim + d, sum * factor, n);
    });
  }
}

inline void BackwardRows(const Context& context, const AttentionBackwardArgs& args) {
  const AttentionShape& s = args.shape;
  Workspace::Scope scope(*context.workspace);
  const auto floats = [&](int64_t n) {
    return static_cast<float*>(context.workspace->Allocate(static_cast<size_t>(n) * sizeof(float)));
  };
  const int64_t head = s.t * s.head_dim, width = kQueries * s.t;
  const RowsBackward b = {args,
                          {s.t, 0, s.heads, s.kv_heads, s.head_dim, s.segment_start, nullptr,
                           nullptr, nullptr, nullptr, nullptr},
                          floats(s.heads * head),
                          floats(s.heads * head)};
  float* scratch = floats(2 * width * context.threads);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(s.head_dim));
#pragma omp parallel num_threads(context.threads)
  {
    float* p = scratch + omp_get_thread_num() * 2 * width;
#pragma omp for schedule(dynamic)
    for (int64_t h = 0; h < s.heads; ++h) {
      __builtin_memset(b.dk + h * head, 0, static_cast<size_t>(head) * sizeof(float));
      __builtin_memset(b.dv + h * head, 0, static_cast<size_t>(head) * sizeof(float));
      for (int64_t row = 0; row < s.t; row += kQueries) BackwardAt(b, h, row, p, p + width);
    }
#pragma omp for schedule(static)
    for (int64_t row = 0; row < s.t; ++row) {
      SumGroup(b.rows, row, b.dk, scale, static_cast<float*>(args.dk));
      SumGroup(b.rows, row, b.dv, 1.0f, static_cast<float*>(args.dv));
    }
  }
}

}  // namespace
}  // namespace tidegate::kernels
