// The definition of right for attention: double, one row at a time, no tiles.
#include <cmath>

#include "kernels/internal/ops.h"

namespace tidegate::kernels {
namespace {

struct Row {
  const double* q;  // [head_dim] of the row
  const double* k;  // [keys] rows, stride apart
  int64_t stride;   // elements between two keys
  int64_t head_dim;
  int64_t begin, end;  // keys begin … end-1
};

double Dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// p[j - begin] = score of key j; returns log(sum of exp(score)).
double Scores(const Row& row, double* p) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(row.head_dim));
  double max = -HUGE_VAL;
  for (int64_t j = row.begin; j < row.end; ++j) {
    const double score = scale * Dot(row.q, row.k + j * row.stride, row.head_dim);
    p[j - row.begin] = score;
    max = score > max ? score : max;
  }
  double sum = 0;
  for (int64_t j = row.begin; j < row.end; ++j) sum += std::exp(p[j - row.begin] - max);
  return max + std::log(sum);
}

// out = softmax(scores) · V; returns the log of the sum.
double AttendRow(const Row& row, const double* v, double* p, double* out) {
  const double lse = Scores(row, p);
  for (int64_t d = 0; d < row.head_dim; ++d) out[d] = 0;
  for (int64_t j = row.begin; j < row.end; ++j) {
    const double weight = std::exp(p[j - row.begin] - lse);
    for (int64_t d = 0; d < row.head_dim; ++d) out[d] += weight * v[j * row.stride + d];
  }
  return lse;
}

}  // namespace

void AttentionForwardRef(const Context& context, const AttentionForwardArgs& args) {
  const AttentionShape& s = args.shape;
  Workspace::Scope scope(*context.workspace);
  double* p = context.workspace->Array<double>(static_cast<size_t>(s.t));
  for (int64_t h = 0; h < s.heads; ++h) {
    const int64_t kv = h / (s.heads / s.kv_heads) * s.head_dim;
    for (int64_t i = 0; i < s.t; ++i) {
      const int64_t at = (i * s.heads + h) * s.head_dim;
      const Row row = {static_cast<const double*>(args.q) + at,
                       static_cast<const double*>(args.k) + kv,
                       s.kv_heads * s.head_dim,
                       s.head_dim,
                       s.segment_start[i],
                       i + 1};
      const double lse = AttendRow(row, static_cast<const double*>(args.v) + kv, p,
                                   static_cast<double*>(args.out) + at);
      static_cast<double*>(args.lse)[h * s.t + i] = lse;
    }
  }
}

void AttentionBackwardRef(const Context& context, const AttentionBackwardArgs& args) {
  const AttentionShape& s = args.shape;
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim));
  const int64_t stride = s.kv_heads * s.head_dim;
  Workspace::Scope scope(*context.workspace);
  double* p = context.workspace->Array<double>(static_cast<size_t>(s.t));
  double* dq = static_cast<double*>(args.dq);
  double* dk = static_cast<double*>(args.dk);
  double* dv = static_cast<double*>(args.dv);
  for (int64_t i = 0; i < s.t * s.heads * s.head_dim; ++i) dq[i] = 0;
  for (int64_t i = 0; i < s.t * stride; ++i) dk[i] = dv[i] = 0;
  for (int64_t h = 0; h < s.heads; ++h) {
    const int64_t kv = h / (s.heads / s.kv_heads) * s.head_dim;
    const double* k = static_cast<const double*>(args.k) + kv;
    const double* v = static_cast<const double*>(args.v) + kv;
    for (int64_t i = 0; i < s.t; ++i) {
      const int64_t at = (i * s.heads + h) * s.head_dim;
      const double* q = static_cast<const double*>(args.q) + at;
      const double* dout = static_cast<const double*>(args.dout) + at;
      const double delta = Dot(dout, static_cast<const double*>(args.out) + at, s.head_dim);
      const Row row = {q, k, stride, s.head_dim, s.segment_start[i], i + 1};
      Scores(row, p);
      const double lse = static_cast<const double*>(args.lse)[h * s.t + i];
      for (int64_t j = row.begin; j < row.end; ++j) {
        const double weight = std::exp(p[j - row.begin] - lse);
        const double ds = weight * (Dot(dout, v + j * stride, s.head_dim) - delta) * scale;
        for (int64_t d = 0; d < s.head_dim; ++d) {
          dv[kv + j * stride + d] += weight * dout[d];
          dk[kv + j * stride + d] += ds * q[d];
          dq[at + d] += ds * k[j * stride + d];
        }
      }
    }
  }
}

void AttentionDecodeRef(const Context& context, const AttentionDecodeArgs& args) {
  Workspace::Scope scope(*context.workspace);
  double* p = context.workspace->Array<double>(static_cast<size_t>(args.past + args.m));
  for (int64_t h = 0; h < args.heads; ++h) {
    const int64_t kv = h / (args.heads / args.kv_heads) * args.head_dim;
    for (int64_t i = 0; i < args.m; ++i) {
      const int64_t at = (i * args.heads + h) * args.head_dim;
      const Row row = {static_cast<const double*>(args.q) + at,
                       static_cast<const double*>(args.k_cache) + kv,
                       args.kv_heads * args.head_dim,
                       args.head_dim,
                       0,
                       args.past + i + 1};
      AttendRow(row, static_cast<const double*>(args.v_cache) + kv, p,
                static_cast<double*>(args.out) + at);
    }
  }
}

}  // namespace tidegate::kernels
