#pragma once

#include "kernels/table.h"

namespace tidegate::kernels {

// out[256][32 lanes][4]: block i with a one as half i % 8 of lane i / 8's left operand, and 1 +
// 8·row
// + column as the right operand.
void LaunchOneInLeft(const Context& context, float* out);

// out[16][16] = left · right, or left · rightᵀ; both 16×16 in bf16.
void LaunchThroughTiles(const Context& context, const void* left, const void* right,
                        bool transposed, float* out);

}  // namespace tidegate::kernels
