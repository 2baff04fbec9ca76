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

// f32, any head size.
void AttentionRowsSse4(const Context& context, const AttentionRows& rows);
void AttentionBackwardSse4(const Context& context, const AttentionBackwardArgs& args);
void AttentionRowsAvx2(const Context& context, const AttentionRows& rows);
void AttentionBackwardAvx2(const Context& context, const AttentionBackwardArgs& args);

// Tiled, head_dim a multiple of 16 and at most 256. The bf16 ones need AVX512-bf16. `Decode` is for
// few rows (m · heads / kv_heads up to 64 or so), without segments and lse.
void AttentionRowsF32Avx512(const Context& context, const AttentionRows& rows);
void AttentionBackwardF32Avx512(const Context& context, const AttentionBackwardArgs& args);
void AttentionDecodeF32Avx512(const Context& context, const AttentionRows& rows);
void AttentionRowsBF16Avx512(const Context& context, const AttentionRows& rows);
void AttentionBackwardBF16Avx512(const Context& context, const AttentionBackwardArgs& args);
void AttentionDecodeBF16Avx512(const Context& context, const AttentionRows& rows);
// The same by AMX, head_dim a multiple of 32.
void AttentionRowsBF16Amx(const Context& context, const AttentionRows& rows);
void AttentionBackwardBF16Amx(const Context& context, const AttentionBackwardArgs& args);

}  // namespace tidegate::kernels
