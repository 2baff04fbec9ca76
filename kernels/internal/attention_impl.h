// The variants of attention behind the slots of the table. Which one runs depends on the CPU and on
// the head size; see attention_cpu.cc.
#pragma once

#include "kernels/attention.h"

namespace tidegate::kernels {

// Forward over m rows that follow `past` cached ones. Row i has position past + i; it sees keys
// segment_start[i] … past + i, from 0 where segment_start is null. lse may be null.
struct AttentionRows {
  int64_t m, past, heads, kv_heads, head_dim;
  const int32_t* segment_start;  // [m] or null
  const void* q;                 // [m, heads, head_dim]
  const void* k;                 // [past + m, kv_heads, head_dim]
  const void* v;                 // [past + m, kv_heads, head_dim]
  void* out;                     // [m, heads, head_dim]
  float* lse;                    // [heads, m] or null
};

// f32, any CPU, any head size.
void AttentionRowsPortable(const Context& context, const AttentionRows& rows);
void AttentionBackwardPortable(const Context& context, const AttentionBackwardArgs& args);

}  // namespace tidegate::kernels
