// Attention in f32 without assumptions about the CPU or the head size: row by row, exact softmax.
// The tiled kernels take over where the CPU and the shape allow it.
#include <omp.h>

#include <cmath>
#include <cstring>

#include "kernels/internal/attention_impl.h"

namespace tidegate::kernels {
namespace {

typedef float Lanes __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;
constexpr int64_t kRowsPerItem = 32;

Lanes LoadLanes(const float* p) {
  Lanes lanes;
  std::memcpy(&lanes, p, sizeof(lanes));
  return lanes;
}

float Dot(const float* a, const float* b, int64_t n) {
  Lanes even = {}, odd = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    even += LoadLanes(a + i) * LoadLanes(b + i);
    odd += LoadLanes(a + i + kLanes) * LoadLanes(b + i + kLanes);
  }
  even += odd;
  float sum = (even[0] + even[1]) + (even[2] + even[3]);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// y += factor · x
void Add(float factor, const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

struct Keys {
  const float* k;
  const float* v;
  int64_t stride;      // elements between two keys
  int64_t begin, end;  // those that the row sees
};

float AttendRow(const float* q, const Keys& keys, int64_t head_dim, float* p, float* out) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  float max = -HUGE_VALF;
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    p[j - keys.begin] = scale * Dot(q, keys.k + j * keys.stride, head_dim);
    max = p[j - keys.begin] > max ? p[j - keys.begin] : max;
  }
  float sum = 0;
  for (int64_t d = 0; d < head_dim; ++d) out[d] = 0;
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const float weight = std::exp(p[j - keys.begin] - max);
    sum += weight;
    Add(weight, keys.v + j * keys.stride, out, head_dim);
  }
  for (int64_t d = 0; d < head_dim; ++d) out[d] /= sum;
  return max + std::log(sum);
}

}  // namespace

void AttentionRowsPortable(const Context& context, const AttentionRows& rows) {
  Workspace::Scope scope(*context.workspace);
  const int64_t keys = rows.past + rows.m;
  float* scratch = context.workspace->Array<float>(static_cast<size_t>(keys * context.threads));
  const int64_t blocks = (rows.m + kRowsPerItem - 1) / kRowsPerItem;
#pragma omp parallel for num_threads(context.threads) schedule(dynamic)
  for (int64_t item = 0; item < rows.heads * blocks; ++item) {
    float* p = scratch + omp_get_thread_num() * keys;
    const int64_t h = item / blocks;
    const int64_t first = item % blocks * kRowsPerItem;
    const int64_t end = first + kRowsPerItem < rows.m ? first + kRowsPerItem : rows.m;
    const int64_t kv = h / (rows.heads / rows.kv_heads) * rows.head_dim;
    for (int64_t i = first; i < end; ++i) {
      const int64_t at = (i * rows.heads + h) * rows.head_dim;
      const Keys seen = {static_cast<const float*>(rows.k) + kv,
                         static_cast<const float*>(rows.v) + kv, rows.kv_heads * rows.head_dim,
                         rows.segment_start ? rows.segment_start[i] : 0, rows.past + i + 1};
      const float lse = AttendRow(static_cast<const float*>(rows.q) + at, seen, rows.head_dim, p,
                                  static_cast<float*>(rows.out) + at);
      if (rows.lse) rows.lse[h * rows.m + i] = lse;
    }
  }
}

void AttentionBackwardPortable(const Context& context, const AttentionBackwardArgs& args) {
  const AttentionShape& s = args.shape;
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  const int64_t stride = s.kv_heads * s.head_dim;
  const int64_t group = s.heads / s.kv_heads;
  std::memset(args.dq, 0, static_cast<size_t>(s.t * s.heads * s.head_dim) * sizeof(float));
  std::memset(args.dk, 0, static_cast<size_t>(s.t * stride) * sizeof(float));
  std::memset(args.dv, 0, static_cast<size_t>(s.t * stride) * sizeof(float));
#pragma omp parallel for num_threads(context.threads) schedule(dynamic)
  for (int64_t kv_head = 0; kv_head < s.kv_heads; ++kv_head) {
    const float* k = static_cast<const float*>(args.k) + kv_head * s.head_dim;
    const float* v = static_cast<const float*>(args.v) + kv_head * s.head_dim;
    float* dk = static_cast<float*>(args.dk) + kv_head * s.head_dim;
    float* dv = static_cast<float*>(args.dv) + kv_head * s.head_dim;
    for (int64_t row = 0; row < group * s.t; ++row) {
      const int64_t h = kv_head * group + row / s.t, i = row % s.t;
      const int64_t at = (i * s.heads + h) * s.head_dim;
      const float* q = static_cast<const float*>(args.q) + at;
      const float* dout = static_cast<const float*>(args.dout) + at;
      const float lse = static_cast<const float*>(args.lse)[h * s.t + i];
      const float delta = Dot(dout, static_cast<const float*>(args.out) + at, s.head_dim);
      for (int64_t j = s.segment_start[i]; j <= i; ++j) {
        const float p = std::exp(scale * Dot(q, k + j * stride, s.head_dim) - lse);
        const float ds = p * (Dot(dout, v + j * stride, s.head_dim) - delta) * scale;
        Add(p, dout, dv + j * stride, s.head_dim);
        Add(ds, q, dk + j * stride, s.head_dim);
        Add(ds, k + j * stride, static_cast<float*>(args.dq) + at, s.head_dim);
      }
    }
  }
}

}  // namespace tidegate::kernels
