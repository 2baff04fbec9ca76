// The tensor cores' operands as the emulator and the kernels take them to lie: one element at a
// time, on whatever runs this: the emulator, or a GPU.

#include "fragments.h"
#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_tiles.h"

namespace tidegate::kernels {
namespace {

// Block i has a one in half `i % 8` of lane i / 8's left operand and numbers in the right one.
SIMT_KERNEL(32)
OneInLeft(float* out) {
  const int lane = static_cast<int>(threadIdx.x), one = static_cast<int>(blockIdx.x);
  uint32_t a[4] = {};
  if (lane == one / 8) a[one % 8 / 2] = one % 2 == 0 ? 0x00003f80u : 0x3f800000u;
  // 1 … 128 by (row, column) of the right operand: row 2t + {0, 1, 8, 9}, column g.
  const int g = lane / 4, t = lane % 4;
  const auto number = [&](int row) { return static_cast<float>(1 + row * 8 + g); };
  float d[4] = {};
  simt::Mma16816(d, a, simt::PackBF16(number(2 * t), number(2 * t + 1)),
                 simt::PackBF16(number(2 * t + 8), number(2 * t + 9)));
  for (int i = 0; i < 4; ++i) out[(one * 32 + lane) * 4 + i] = d[i];
}

// left (16×16) · right (16×8) through tiles in shared memory, as the attention kernels do it.
// transposed: right comes as its transpose.
SIMT_KERNEL(32)
ThroughTiles(const BF16* left, const BF16* right, bool transposed, float* out) {
  SIMT_DYNAMIC_SHARED(BF16, tile);
  BF16* const other = tile + 16 * kTileRow<16>;
  LoadTile<16, 16, 32>({left, 16, 16, 16}, 0, tile);
  LoadTile<16, 16, 32>({right, 16, 16, 16}, 0, other);
  simt::CopyCommit();
  simt::CopyWait<0>();
  __syncthreads();
  uint32_t a[4], b[4];
  LeftOperand<16>(tile, 0, 0, a);
  if (transposed) {
    RightOperandOfTranspose<16>(other, 0, 0, b);
  } else {
    RightOperand<16>(other, 0, 0, b);
  }
  float d[2][4] = {};
  simt::Mma16816(d[0], a, b[0], b[1]);
  simt::Mma16816(d[1], a, b[2], b[3]);
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  for (int n = 0; n < 2; ++n) {
    for (int i = 0; i < 4; ++i) out[(g + 8 * (i / 2)) * 16 + 8 * n + 2 * t + i % 2] = d[n][i];
  }
}

}  // namespace

void LaunchOneInLeft(const Context& context, float* out) {
  Launch(context, "fragments", OneInLeft, 256, 32, 0, out);
}

void LaunchThroughTiles(const Context& context, const void* left, const void* right,
                        bool transposed, float* out) {
  Launch(context, "fragments", ThroughTiles, 1, 32, 2 * 16 * kTileRow<16> * sizeof(BF16),
         static_cast<const BF16*>(left), static_cast<const BF16*>(right), transposed, out);
}

}  // namespace tidegate::kernels
