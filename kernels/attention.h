// Causal grouped-query attention over packed segments, never materialising T×T.
//
// Rows are tokens; segment_start[i] is the row where the segment of row i begins. Row i sees keys
// j with segment_start[i] <= j <= i. Scores are q·k · head_dim^-0.5; softmax in GradType. Query
// head h uses key/value head h / (heads / kv_heads). No atomics; same bits for any thread count.
#pragma once

#include "kernels/types.h"

namespace tidegate::kernels {

struct AttentionShape {
  int64_t t;                     // rows
  int64_t heads;                 // query heads
  int64_t kv_heads;              // divides heads
  int64_t head_dim;              // a multiple of 2
  const int32_t* segment_start;  // [t], non-decreasing, segment_start[i] <= i
};

struct AttentionForwardArgs {
  AttentionShape shape;
  const void* q;  // [t, heads, head_dim]
  const void* k;  // [t, kv_heads, head_dim]
  const void* v;  // [t, kv_heads, head_dim]
  void* out;      // [t, heads, head_dim]
  void* lse;      // [heads, t] GradType: natural log of the row's sum of exp(score)
};

struct AttentionBackwardArgs {
  AttentionShape shape;
  const void* q;
  const void* k;
  const void* v;
  const void* out;
  const void* lse;
  const void* dout;  // [t, heads, head_dim]
  void* dq;          // [t, heads, head_dim]
  void* dk;          // [t, kv_heads, head_dim]
  void* dv;          // [t, kv_heads, head_dim]
};

// m new rows of one sequence after `past` cached ones: row i sees keys 0 … past + i. For
// generation; the caches hold past + m rows (the new ones included).
struct AttentionDecodeArgs {
  int64_t m, past, heads, kv_heads, head_dim;
  const void* q;        // [m, heads, head_dim]
  const void* k_cache;  // [past + m, kv_heads, head_dim]
  const void* v_cache;  // [past + m, kv_heads, head_dim]
  void* out;            // [m, heads, head_dim]
};

}  // namespace tidegate::kernels
