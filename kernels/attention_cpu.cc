// The attention slots of the cpu tables: choose a variant by CPU and head size.
#include <cstring>

#include "kernels/internal/attention_impl.h"
#include "kernels/internal/cpu.h"
#include "kernels/internal/ops.h"
#include "kernels/internal/weights.h"

namespace tidegate::kernels {
namespace {

// From here on the tiles of forward are faster than those of decoding.
constexpr int64_t kFewRows = 32;

bool TilesFit(int64_t head_dim) { return head_dim % 16 == 0 && head_dim <= 256; }

bool AmxFits(int64_t head_dim) {
  return head_dim % 32 == 0 && head_dim <= 256 && DetectCpuIsa() >= CpuIsa::kAmxBF16;
}

void RowsAnySize(const Context& context, const AttentionRows& rows) {
  (DetectCpuIsa() >= CpuIsa::kAvx2 ? AttentionRowsAvx2 : AttentionRowsSse4)(context, rows);
}

void BackwardAnySize(const Context& context, const AttentionBackwardArgs& args) {
  (DetectCpuIsa() >= CpuIsa::kAvx2 ? AttentionBackwardAvx2 : AttentionBackwardSse4)(context, args);
}

AttentionRows RowsOf(const AttentionForwardArgs& args) {
  const AttentionShape& s = args.shape;
  return {s.t,
          0,
          s.heads,
          s.kv_heads,
          s.head_dim,
          s.segment_start,
          args.q,
          args.k,
          args.v,
          args.out,
          static_cast<float*>(args.lse)};
}

AttentionRows RowsOf(const AttentionDecodeArgs& args) {
  return {args.m, args.past,    args.heads,   args.kv_heads, args.head_dim, nullptr,
          args.q, args.k_cache, args.v_cache, args.out,      nullptr};
}

// Head sizes that the bf16 tiles do not cut go through f32 copies.
float* Widened(Workspace& workspace, const void* in, int64_t count) {
  float* out = workspace.Array<float>(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out[i] = WidenBF16(static_cast<const uint16_t*>(in)[i]);
  return out;
}

// Nearest even; NaN stays one.
void Narrow(const float* in, int64_t count, void* out) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, in + i, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40;
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    static_cast<uint16_t*>(out)[i] = static_cast<uint16_t>(nan ? quiet : rounded);
  }
}

void RowsThroughF32(const Context& context, const AttentionRows& args) {
  AttentionRows rows = args;
  Workspace& workspace = *context.workspace;
  Workspace::Scope scope(workspace);
  const int64_t queries = rows.m * rows.heads * rows.head_dim;
  const int64_t keys = (rows.past + rows.m) * rows.kv_heads * rows.head_dim;
  void* out = rows.out;
  float* wide_out = workspace.Array<float>(static_cast<size_t>(queries));
  rows.q = Widened(workspace, rows.q, queries);
  rows.k = Widened(workspace, rows.k, keys);
  rows.v = Widened(workspace, rows.v, keys);
  rows.out = wide_out;
  RowsAnySize(context, rows);
  Narrow(wide_out, queries, out);
}

void BackwardThroughF32(const Context& context, const AttentionBackwardArgs& args) {
  Workspace& workspace = *context.workspace;
  Workspace::Scope scope(workspace);
  const AttentionShape& s = args.shape;
  const int64_t queries = s.t * s.heads * s.head_dim, keys = s.t * s.kv_heads * s.head_dim;
  float* dq = workspace.Array<float>(static_cast<size_t>(queries));
  float* dk = workspace.Array<float>(static_cast<size_t>(keys));
  float* dv = workspace.Array<float>(static_cast<size_t>(keys));
  AttentionBackwardArgs wide = args;
  wide.q = Widened(workspace, args.q, queries);
  wide.k = Widened(workspace, args.k, keys);
  wide.v = Widened(workspace, args.v, keys);
  wide.out = Widened(workspace, args.out, queries);
  wide.dout = Widened(workspace, args.dout, queries);
  wide.dq = dq;
  wide.dk = dk;
  wide.dv = dv;
  BackwardAnySize(context, wide);
  Narrow(dq, queries, args.dq);
  Narrow(dk, keys, args.dk);
  Narrow(dv, keys, args.dv);
}

using RowsVariant = void (*)(const Context&, const AttentionRows&);
RowsVariant RowsBF16(int64_t head_dim) {
  if (AmxFits(head_dim)) return AttentionRowsBF16Amx;
  return TilesFit(head_dim) ? AttentionRowsBF16Avx512 : RowsThroughF32;
}

}  // namespace

void AttentionForwardCpuF32(const Context& context, const AttentionForwardArgs& args) {
  const bool tiled = TilesFit(args.shape.head_dim) && DetectCpuIsa() >= CpuIsa::kAvx512;
  (tiled ? AttentionRowsF32Avx512 : RowsAnySize)(context, RowsOf(args));
}

void AttentionBackwardCpuF32(const Context& context, const AttentionBackwardArgs& args) {
  const bool tiled = TilesFit(args.shape.head_dim) && DetectCpuIsa() >= CpuIsa::kAvx512;
  (tiled ? AttentionBackwardF32Avx512 : BackwardAnySize)(context, args);
}

void AttentionDecodeCpuF32(const Context& context, const AttentionDecodeArgs& args) {
  const AttentionRows rows = RowsOf(args);
  if (!TilesFit(args.head_dim) || DetectCpuIsa() < CpuIsa::kAvx512) {
    RowsAnySize(context, rows);
  } else if (args.m < kFewRows) {
    AttentionDecodeF32Avx512(context, rows);
  } else {
    AttentionRowsF32Avx512(context, rows);
  }
}

// The table offers bf16 only where the CPU has AVX512-bf16.
void AttentionForwardCpuBF16(const Context& context, const AttentionForwardArgs& args) {
  RowsBF16(args.shape.head_dim)(context, RowsOf(args));
}

void AttentionBackwardCpuBF16(const Context& context, const AttentionBackwardArgs& args) {
  const int64_t head_dim = args.shape.head_dim;
  (AmxFits(head_dim)    ? AttentionBackwardBF16Amx
   : TilesFit(head_dim) ? AttentionBackwardBF16Avx512
                        : BackwardThroughF32)(context, args);
}

void AttentionDecodeCpuBF16(const Context& context, const AttentionDecodeArgs& args) {
  const AttentionRows rows = RowsOf(args);
  if (TilesFit(args.head_dim) && args.m < kFewRows) {
    AttentionDecodeBF16Avx512(context, rows);
  } else {
    RowsBF16(args.head_dim)(context, rows);
  }
}

}  // namespace tidegate::kernels
