#include "kernels/internal/attention_backward_tiles.h"
#include "kernels/internal/attention_decode_tiles.h"
#include "kernels/internal/attention_forward_tiles.h"

namespace tidegate::kernels {

void AttentionRowsBF16Avx512(const Context& context, const AttentionRows& rows) {
  ForwardTiles<TilesBF16>(context, rows).Run();
}

void AttentionBackwardBF16Avx512(const Context& context, const AttentionBackwardArgs& args) {
  BackwardTiles<TilesBF16>(context, args).Run();
}

void AttentionDecodeBF16Avx512(const Context& context, const AttentionRows& rows) {
  DecodeTiles<TilesBF16>(context, rows).Run();
}

}  // namespace tidegate::kernels
