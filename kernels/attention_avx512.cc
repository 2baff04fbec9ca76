#include "kernels/internal/attention_backward_tiles.h"
#include "kernels/internal/attention_decode_tiles.h"
#include "kernels/internal/attention_forward_tiles.h"

namespace tidegate::kernels {

void AttentionRowsF32Avx512(const Context& context, const AttentionRows& rows) {
  ForwardTiles<TilesF32>(context, rows).Run();
}

void AttentionBackwardF32Avx512(const Context& context, const AttentionBackwardArgs& args) {
  BackwardTiles<TilesF32>(context, args).Run();
}

void AttentionDecodeF32Avx512(const Context& context, const AttentionRows& rows) {
  DecodeTiles<TilesF32>(context, rows).Run();
}

}  // namespace tidegate::kernels
